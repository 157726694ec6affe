// Floating point as the standard has it while a packed network runs, whatever the process has switched on.
#pragma once

#include <cstdint>

#ifdef BITRELAX_X86
#include <xmmintrin.h>
#endif

namespace bitrelax {

// Within it, in this thread: denormals are numbers, and results are rounded to the nearest. Training flushes denormals,
// and a network is exact by its own facts only with them.
class StandardFloats {
#if defined(BITRELAX_X86)
   public:
    StandardFloats() : saved_(_mm_getcsr()) {
        if ((saved_ & kControl) != kStandard) _mm_setcsr(kStandard);
    }
    ~StandardFloats() {
        if ((saved_ & kControl) != kStandard) _mm_setcsr(saved_);
    }

   private:
    static constexpr unsigned kControl = 0xffc0, kStandard = 0x1f80;  // without the flags of what happened
    unsigned saved_;
#elif defined(__aarch64__)
   public:
    StandardFloats() {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        if (saved_) asm volatile("msr fpcr, %0" : : "r"(std::uint64_t{0}));
    }
    ~StandardFloats() {
        if (saved_) asm volatile("msr fpcr, %0" : : "r"(saved_));
    }

   private:
    std::uint64_t saved_;
#else
   public:
    StandardFloats() {}  // nothing to switch
#endif
    StandardFloats(const StandardFloats&) = delete;
};

}  // namespace bitrelax
