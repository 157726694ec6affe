// One block of threads on one thread of the host: fibers that take turns at barriers and at what a warp does together.
//
// Copies to shared memory are made as late as a device may (at the wait) and what they overwrite is lost as early as it
// may be (at the request), so a missing wait and a stage given back too soon both give wrong sums. Shared memory begins
// each block as garbage. Under ThreadSanitizer every fiber is a thread, ordered by __syncthreads and __syncwarp alone.
#pragma once

#include <algorithm>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <ucontext.h>

#ifdef __SANITIZE_THREAD__
extern "C" {
void* __tsan_create_fiber(unsigned);
void* __tsan_get_current_fiber();
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#define UNSEEN __attribute__((no_sanitize("thread"), noinline))
#else
#define UNSEEN
#endif

#define __device__
#define __forceinline__ inline
#define __align__(n) alignas(n)
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(name) u8* const name = host::block.shared
#define SHARED(Type, name) \
    static Type name;      \
    static const host::Shared shared_##name(&name, sizeof name)

struct dim3 {
    u32 x = 1, y = 1, z = 1;
};
struct int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(16) uint4 {
    u32 x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

using std::max;
using std::min;

namespace host {

constexpr int kLanes = 32, kMostThreads = 1024, kStack = 1 << 17;

struct Copy {
    void* to;
    const void* from;
    int bytes;
    bool valid;
};

struct Fiber {
    ucontext_t start;
    jmp_buf at;
    std::unique_ptr<char[]> stack;
    bool begun = false, done = true;
    int index = 0;
    std::vector<std::vector<Copy>> copies;
    void* watched = nullptr;  // ThreadSanitizer's own record of it
};

// What a warp does together: lanes leave operands, the last to arrive computes for all.
struct Warp {
    u32 given[kLanes][10], got[kLanes][4];
    int arrived = 0;
    u32 turn = 0;
};

struct Block {
    dim3 index, threads, grid;
    void (*kernel)(const void*) = nullptr;
    const void* parameters = nullptr;
    u8* shared = nullptr;
    int count = 0, left = 0, arrived = 0, skipped_line = 0, waits = 0;
    u32 turn = 0;
    Fiber* now = nullptr;
    std::vector<std::unique_ptr<Fiber>> fibers;
    Warp warps[kMostThreads / kLanes];
    ucontext_t main;
    jmp_buf main_at;
    void* main_watched = nullptr;
    // What ThreadSanitizer sees order through: a block's begin and end, and barriers. Those take turns with two, because
    // a thread may reach the next barrier before another has left this one.
    char begin, end, order[2];
};
inline Block& block = *new Block;  // never freed: a process may end while fibers wait

#ifdef __SANITIZE_THREAD__
inline void acquire(void* at) { __tsan_acquire(at); }
inline void release(void* at) { __tsan_release(at); }
UNSEEN inline void watch(void* fiber) { __tsan_switch_to_fiber(fiber, 1); }  // 1: a switch orders nothing
#else
inline void acquire(void*) {}
inline void release(void*) {}
#endif

UNSEEN inline void enter(Fiber& fiber);

UNSEEN inline void leave_to(Fiber* from, Fiber& to) {
    block.now = &to;
#ifdef __SANITIZE_THREAD__
    watch(to.watched);
    swapcontext(from ? &from->start : &block.main, &to.start);
#else
    if (_setjmp(from ? from->at : block.main_at) == 0) {
        if (to.begun) _longjmp(to.at, 1);
        to.begun = true;
        setcontext(&to.start);
    }
#endif
}

UNSEEN inline void leave_to_main(Fiber& from) {
#ifdef __SANITIZE_THREAD__
    watch(block.main_watched);
    swapcontext(&from.start, &block.main);
#else
    if (_setjmp(from.at) == 0) _longjmp(block.main_at, 1);
#endif
}

// Lets the next thread of the block run. Returns when it is this one's turn again.
UNSEEN inline void take_turns() {
    Fiber& from = *block.now;
    if (++block.waits > 4 * block.count) {
        std::fprintf(stderr, "a barrier of this block is not reached by all of its threads\n");
        std::abort();
    }
    int next = from.index;
    do next = (next + 1) % block.count;
    while (block.fibers[next]->done);
    if (next != from.index) leave_to(&from, *block.fibers[next]);
}

UNSEEN inline void run_thread() {
    block.kernel(block.parameters);
}

UNSEEN inline void body() {
    for (;;) {
        Fiber& self = *block.now;
        acquire(&block.begin);
        run_thread();
        release(&block.end);
        if (!self.copies.empty() && !self.copies.back().empty()) {
            std::fprintf(stderr, "a thread ended with copies that no group holds\n");
            std::abort();
        }
        self.copies.clear();
        self.done = true;
        block.waits = 0;
        if (--block.left == 0) {
            leave_to_main(self);
            continue;
        }
        int next = self.index;
        do next = (next + 1) % block.count;
        while (block.fibers[next]->done);
        leave_to(&self, *block.fibers[next]);
    }
}

UNSEEN inline void prepare(int count) {
    while (static_cast<int>(block.fibers.size()) < count) {
        auto fiber = std::make_unique<Fiber>();
        fiber->index = static_cast<int>(block.fibers.size());
        fiber->stack = std::make_unique<char[]>(kStack);
        getcontext(&fiber->start);
        fiber->start.uc_stack.ss_sp = fiber->stack.get();
        fiber->start.uc_stack.ss_size = kStack;
        fiber->start.uc_link = nullptr;
        makecontext(&fiber->start, body, 0);
#ifdef __SANITIZE_THREAD__
        fiber->watched = __tsan_create_fiber(0);
#endif
        block.fibers.push_back(std::move(fiber));
    }
}

inline void garbage(void* at, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes / 4; ++i) static_cast<u32*>(at)[i] = 0xa5c3a5c3u;
}

// Shared memory of one name, known from the first block that reaches it.
struct Shared {
    void* at;
    std::size_t bytes;
    static std::vector<Shared>& all() {
        static std::vector<Shared> known;
        return known;
    }
    Shared(void* at_, std::size_t bytes_) : at(at_), bytes(bytes_) {
        garbage(at, bytes);
        all().push_back(*this);
    }
};

UNSEEN inline void run_block() {
    block.left = block.count;
    block.arrived = block.waits = 0;
    for (int i = 0; i < block.count; ++i) block.fibers[i]->done = false;
    release(&block.begin);
    leave_to(nullptr, *block.fibers[0]);
    acquire(&block.end);
}

UNSEEN inline dim3 thread_index() {
    return {static_cast<u32>(block.now->index), 0, 0};  // blocks of all kernels are lines of threads
}
UNSEEN inline dim3 block_index() { return block.index; }
UNSEEN inline dim3 block_size() { return block.threads; }
UNSEEN inline dim3 grid_size() { return block.grid; }

UNSEEN inline bool last_to_arrive() {
    if (++block.arrived < block.left) return false;
    block.arrived = block.waits = 0;
    ++block.turn;
    return true;
}

UNSEEN inline void wait_for_block() {
    const u32 turn = block.turn;
    if (last_to_arrive()) return;
    while (block.turn == turn) take_turns();
}

UNSEEN inline bool skipped(int line) { return line == block.skipped_line; }

UNSEEN inline char* next_order() { return &block.order[block.turn % 2]; }

inline void barrier(int line) {
    if (skipped(line)) return;
    char* const order = next_order();
    release(order);
    wait_for_block();
    acquire(order);
}

// Every lane gives words; the last to arrive calls `together(given, got)`; every lane gets words.
template <class Together>
UNSEEN void in_warp(const u32* give, int given, u32* get, int got, Together together) {
    Fiber& self = *block.now;
    const int lane = self.index % kLanes;
    Warp& warp = block.warps[self.index / kLanes];
    for (int i = 0; i < given; ++i) warp.given[lane][i] = give[i];
    const u32 turn = warp.turn;
    if (++warp.arrived == kLanes) {
        warp.arrived = block.waits = 0;
        together(warp);
        ++warp.turn;
    } else {
        while (warp.turn == turn) take_turns();
    }
    for (int i = 0; i < got; ++i) get[i] = warp.got[lane][i];
}

struct And {
    static u32 of(u32 a, u32 b) { return a & b; }
};
struct Xor {
    static u32 of(u32 a, u32 b) { return a ^ b; }
};

// mma.m16n8k256: lane = 4 g + q. a: rows g, g + 8 of words q; then of words q + 4. b: column g, words q, q + 4.
// sums: rows g, g, g + 8, g + 8 of columns 2 q, 2 q + 1, 2 q, 2 q + 1.
template <class Bits>
UNSEEN void multiply(Warp& warp) {
    for (int lane = 0; lane < kLanes; ++lane)
        for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
            u32 sum = warp.given[lane][6 + i];
            for (int word = 0; word < 8; ++word) {
                const u32 a = warp.given[4 * (row % 8) + word % 4][row / 8 + 2 * (word / 4)];
                const u32 b = warp.given[4 * column + word % 4][4 + word / 4];
                sum += static_cast<u32>(__builtin_popcount(Bits::of(a, b)));
            }
            warp.got[lane][i] = sum;
        }
}

template <class Bits>
UNSEEN void mma(int (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    u32 give[10] = {a0, a1, a2, a3, b0, b1}, get[4];
    std::memcpy(give + 6, sum, sizeof sum);
    in_warp(give, 10, get, 4, multiply<Bits>);
    std::memcpy(sum, get, sizeof sum);
}

UNSEEN inline std::vector<std::vector<Copy>>& copies() {
    auto& all = block.now->copies;
    if (all.empty()) all.emplace_back();
    return all;
}

inline void request(const Copy& copy) {
    garbage(copy.to, static_cast<std::size_t>(copy.bytes));
    copies().back().push_back(copy);
}

inline void make(const Copy& copy) {
    for (int i = 0; i < copy.bytes / 4; ++i)
        static_cast<u32*>(copy.to)[i] = copy.valid ? static_cast<const u32*>(copy.from)[i] : 0;
}

inline void wait_copies(std::size_t groups) {
    auto& all = copies();
    while (all.size() - 1 > groups) {
        for (const Copy& copy : all.front()) make(copy);
        all.erase(all.begin());
    }
}

UNSEEN inline void count_votes(Warp& warp) {
    u32 votes = 0;
    for (int lane = 0; lane < kLanes; ++lane) votes |= warp.given[lane][0] << lane;
    for (int lane = 0; lane < kLanes; ++lane) warp.got[lane][0] = votes;
}

template <int offset>
UNSEEN void exchange(Warp& warp) {
    for (int lane = 0; lane < kLanes; ++lane) warp.got[lane][0] = warp.given[lane ^ offset][0];
}

// Kernels by name.
struct Kernel {
    void (*call)(const void*);
    u32 threads, parameters;
};
inline std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}
struct Registered {
    Registered(const char* name, Kernel kernel) { kernels()[name] = kernel; }
};

}  // namespace host

#define KERNEL(name, Parameters, most)                                                                           \
    static void name(const Parameters p);                                                                        \
    static const host::Registered registered_##name(                                                             \
        #name, {[](const void* p) { name(*static_cast<const Parameters*>(p)); }, most, sizeof(Parameters)}); \
    static void name(const Parameters p)

#define threadIdx (host::thread_index())
#define blockIdx (host::block_index())
#define blockDim (host::block_size())
#define gridDim (host::grid_size())
#define __syncthreads() host::barrier(__LINE__)

inline void mma_and(int (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    host::mma<host::And>(sum, a0, a1, a2, a3, b0, b1);
}
inline void mma_xor(int (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    host::mma<host::Xor>(sum, a0, a1, a2, a3, b0, b1);
}
template <int bytes>
inline void copy_async(void* to, const void* from, bool valid) {
    host::request({to, from, bytes, valid});
}
inline void copies_commit() { host::copies().emplace_back(); }
template <int groups>
inline void copies_wait() {
    host::wait_copies(groups);
}

inline u32 __ballot_sync(u32, bool vote) {
    const u32 give = vote;
    u32 get;
    host::in_warp(&give, 1, &get, 1, host::count_votes);
    return get;
}
template <int offset>
inline u32 shuffle_xor(u32 value) {
    u32 get;
    host::in_warp(&value, 1, &get, 1, host::exchange<offset>);
    return get;
}

inline int __popc(u32 word) { return __builtin_popcount(word); }
inline u32 __dp4a(u32 a, u32 b, u32 sum) {
    for (int i = 0; i < 32; i += 8) sum += ((a >> i) & 255) * ((b >> i) & 255);
    return sum;
}
inline float __fmul_rn(float a, float b) { return a * b; }  // built with -ffp-contract=off
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __int2float_rn(int a) { return static_cast<float>(a); }
inline float __uint_as_float(u32 a) {
    float b;
    std::memcpy(&b, &a, 4);
    return b;
}
inline u32 __float_as_uint(float a) {
    u32 b;
    std::memcpy(&b, &a, 4);
    return b;
}
inline int atomicAdd(int* at, int more) { return __atomic_fetch_add(at, more, __ATOMIC_RELAXED); }
inline u32 atomicAdd(u32* at, u32 more) { return __atomic_fetch_add(at, more, __ATOMIC_RELAXED); }

// Runs every block of a grid. 0, or why not: 1 no such kernel, 2 parameters of another size, 3 threads it is not made for.
extern "C" UNSEEN int bitrelax_launch(const char* name, const u32* grid, u32 threads, u32 shared, const void* parameters,
                                      u32 size) {
    const auto found = host::kernels().find(name);
    if (found == host::kernels().end()) return 1;
    if (found->second.parameters != size) return 2;
    if (found->second.threads != threads) return 3;
    auto& block = host::block;
    host::prepare(static_cast<int>(threads));
    std::vector<uint4> memory(shared / 16 + 1);
    block.shared = reinterpret_cast<u8*>(memory.data());
    block.kernel = found->second.call;
    block.parameters = parameters;
    block.count = static_cast<int>(threads);
    block.threads = {threads};
    block.grid = {grid[0], grid[1], grid[2]};
#ifdef __SANITIZE_THREAD__
    block.main_watched = __tsan_get_current_fiber();
#endif
    for (block.index.z = 0; block.index.z < grid[2]; ++block.index.z)
        for (block.index.y = 0; block.index.y < grid[1]; ++block.index.y)
            for (block.index.x = 0; block.index.x < grid[0]; ++block.index.x) {
                host::garbage(block.shared, shared);
                for (const host::Shared& one : host::Shared::all()) host::garbage(one.at, one.bytes);
                host::run_block();
            }
    return 0;
}

// From now on the barriers written on this line are not there (0: all are).
extern "C" void bitrelax_skip(int line) { host::block.skipped_line = line; }
