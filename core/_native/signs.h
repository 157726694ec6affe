// Searches over sign vectors x for a small x'Cx: steepest one-flip descent, tabu search, enumeration in Gray code.
//
// The gain of i is g_i = x_i (Cx)_i, C without its diagonal: flipping x_i lowers x'Cx by 4 g_i, negates g_i and lowers
// g_j by 2 c_ij x_i x_j (signs before the flip). Searches carry gains along; callers pass those of the start.
#pragma once

#include <cstdint>

#include "dispatch.h"

namespace bitrelax {

// Row i of C: `dense` (n * n, or null), else the entries starts[i]..starts[i + 1] of columns and values.
template <class Number>
struct SignRows {
    std::int64_t n;
    const Number* dense;
    const std::int32_t *starts, *columns;
    const Number* values;
};

// From each of `count` starts, flips of the largest gain (the first of equals) while it is above `least`.
struct SignDescent {
    SignRows<double> rows;
    std::int64_t count;
    std::int8_t* signs;  // (count, n), in place
    double* gains;       // (count, n), in place
    double least;
};

// One-flip tabu search; the best vector met replaces `signs`, gains are left as they come.
// A vertex flipped is barred for tenure + (0 .. spread - 1) flips unless it leads below the best met; tenure + spread
// <= n. Which of equal gains goes first: solvers/sdp/signs/tabu_twins.py. `range`: of |gain|; needed where Number is an integer.
template <class Number>
struct SignTabu {
    SignRows<Number> rows;
    std::int8_t* signs;
    Number* gains;
    std::int64_t flips;
    std::uint64_t seed;
    std::int32_t tenure, spread, range;
};

// A minimum over all x whose last sign is +1; rows dense, 1 <= n <= 32.
struct SignEnumeration {
    SignRows<double> rows;
    std::int8_t* signs;
};

#define BITRELAX_SIGN_KERNELS                             \
    void sign_descent(const SignDescent&);                \
    void sign_tabu(const SignTabu<double>&);              \
    void sign_tabu_buckets(const SignTabu<std::int32_t>&); \
    void sign_enumerate(const SignEnumeration&);

namespace portable {
BITRELAX_SIGN_KERNELS
}
#ifdef BITRELAX_X86
namespace avx2 {
BITRELAX_SIGN_KERNELS
}
namespace avx512 {
BITRELAX_SIGN_KERNELS
}
#endif

}  // namespace bitrelax
