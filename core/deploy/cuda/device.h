// What every kernel shares: the macro that makes one, and the functions that hold the only inline PTX: mma, cp.async.
//
// One source serves the device (NVRTC, self-contained, C++17) and the host (BITRELAX_HOST: host.h emulates a block).
// Kernels take one struct by value, declared beside them and mirrored in records.py, pointers first.
#pragma once

typedef unsigned int u32;
typedef unsigned char u8;

#ifdef BITRELAX_HOST
#include "host.h"
#else

// A kernel of `threads` threads a block that takes `Parameters p`.
#define KERNEL(name, Parameters, threads) \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Parameters p)
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) u8 name[]
#define SHARED(Type, name) __shared__ Type name

// sum (16 x 8) += popcount(a and b) over 256 bits; the fragments are those of PTX's mma.m16n8k256.
__device__ __forceinline__ void mma_and(int (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// The same of xor: native on sm_80 to sm_89, emulated by calls from sm_90 on. Only the rates measure it.
__device__ __forceinline__ void mma_xor(int (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor.popc {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Begins a copy of `bytes` (4 or 16) to shared memory; zeros where not `valid`, and then `from` is not read.
template <int bytes>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
    const u32 address = static_cast<u32>(__cvta_generic_to_shared(to));
    const u32 read = valid ? bytes : 0;
    if constexpr (bytes == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(read) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(read) : "memory");
}

// Ends a group of this thread's copies.
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `groups` of this thread's groups are under way.
template <int groups>
__device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

template <int offset>
__device__ __forceinline__ u32 shuffle_xor(u32 value) {
    return __shfl_xor_sync(0xffffffffu, value, offset);
}

#endif

__device__ __forceinline__ u32 ballot(bool vote) { return __ballot_sync(0xffffffffu, vote); }
