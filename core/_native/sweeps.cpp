// The hot loops of low-rank descent: one instance for each width of a factor up to 64, a row's sum held in registers.
#include "sweeps.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#ifdef BITRELAX_X86
#include <immintrin.h>
#endif

#define BITRELAX_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define BITRELAX_UNROLLED _Pragma("clang loop unroll(full)")
#else
#define BITRELAX_UNROLLED _Pragma("GCC unroll 16")
#endif

// How vectors wider than a level's registers are passed is of no concern: everything here is inlined.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace bitrelax::BITRELAX_LEVEL {

namespace {

#if defined(__AVX512F__)
#define BITRELAX_BYTES 64
#elif defined(__AVX2__)
#define BITRELAX_BYTES 32
#else
#define BITRELAX_BYTES 16
#endif
constexpr int BYTES = BITRELAX_BYTES;

// One register of T, and the floats that widen to one register of doubles.
template <class T>
struct Register {
    typedef T type __attribute__((vector_size(BYTES)));
    typedef T unaligned __attribute__((vector_size(BYTES), aligned(sizeof(T))));
    static constexpr int LANES = BYTES / sizeof(T);
};
template <class T>
using Vec = typename Register<T>::type;
constexpr int LANES = Register<double>::LANES;
constexpr int PER = 64 / BYTES;  // registers a chunk of 64 bytes

template <class T>
BITRELAX_INLINE Vec<T> load(const T* from) {
    return *reinterpret_cast<const typename Register<T>::unaligned*>(from);
}
template <class T>
BITRELAX_INLINE void store(T* to, Vec<T> v) {
    *reinterpret_cast<typename Register<T>::unaligned*>(to) = v;
}
template <class T>
BITRELAX_INLINE Vec<T> all(T x) {
    return x - Vec<T>{};
}

BITRELAX_INLINE Vec<double> multiply_add(Vec<double> a, Vec<double> b, Vec<double> c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_pd(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_pd(a, b, c);
#else
    return a * b + c;
#endif
}
BITRELAX_INLINE Vec<float> multiply_add(Vec<float> a, Vec<float> b, Vec<float> c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#else
    return a * b + c;
#endif
}

// Sum of a register's lanes, by halves.
template <class T>
BITRELAX_INLINE T sum(Vec<T> v) {
    constexpr int L = Register<T>::LANES;
    if constexpr (L == 16) v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    if constexpr (L == 16) v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    if constexpr (L == 16) v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    if constexpr (L == 8) v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
    if constexpr (L == 8) v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
    if constexpr (L == 4) v += __builtin_shufflevector(v, v, 2, 3, 0, 1);
    return v[0] + v[1];
}

// Eight columns of a pair: stored as the upper halves of floats, computed with as floats.
typedef float Eight __attribute__((vector_size(32)));
typedef std::uint32_t EightBits __attribute__((vector_size(32)));
typedef std::uint16_t EightHalves __attribute__((vector_size(16)));
typedef std::uint16_t UnalignedHalves __attribute__((vector_size(16), aligned(2)));
typedef double EightDoubles __attribute__((vector_size(64)));
typedef double UnalignedDoubles __attribute__((vector_size(64), aligned(8)));

BITRELAX_INLINE Eight widened(const std::uint16_t* from) {
    const EightHalves halves = *reinterpret_cast<const UnalignedHalves*>(from);
#if defined(__AVX2__)
    return reinterpret_cast<Eight>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(halves)), 16));
#else
    return reinterpret_cast<Eight>(__builtin_convertvector(halves, EightBits) << 16);
#endif
}
// Stores x rounded to nearest, ties to even; returns what was stored.
BITRELAX_INLINE Eight narrowed(std::uint16_t* to, Eight x) {
    const EightBits bits = reinterpret_cast<EightBits>(x);
    const EightBits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    *reinterpret_cast<UnalignedHalves*>(to) = __builtin_convertvector(rounded, EightHalves);
    return reinterpret_cast<Eight>(rounded << 16);
}
BITRELAX_INLINE EightDoubles eight(const double* from) { return *reinterpret_cast<const UnalignedDoubles*>(from); }
BITRELAX_INLINE void keep(double* to, EightDoubles x) { *reinterpret_cast<UnalignedDoubles*>(to) = x; }
BITRELAX_INLINE Eight single(EightDoubles x) { return __builtin_convertvector(x, Eight); }
#if BITRELAX_BYTES != 32  // where a register holds eight floats, this is the one above
BITRELAX_INLINE Eight multiply_add(Eight a, Eight b, Eight c) {
#if defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#else
    return a * b + c;
#endif
}
#endif

BITRELAX_INLINE double sum_of(EightDoubles x) {
#if BITRELAX_BYTES == 64
    return sum<double>(x);
#else
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
#endif
}
// Adds the lanes of a block's sum: sums of many products in float32 are closed every block, and go on in float64.
BITRELAX_INLINE double sum_of(Eight x) {
    double total = 0.0;
    for (int l = 0; l < 8; ++l) total += static_cast<double>(x[l]);
    return total;
}

// A sum of doubles whose rounding errors are summed beside it (Neumaier 1974).
struct Compensated {
    double total = 0.0, lost = 0.0;
    void add(double x) {
        const double next = total + x;
        lost += std::abs(total) >= std::abs(x) ? (total - next) + x : (x - next) + total;
        total = next;
    }
    double value() const { return total + lost; }
};

// Calls f with the number of 64-byte chunks in a row as a constant, 0 where there are more than 8.
template <class F>
BITRELAX_INLINE auto with_chunks(std::int64_t chunks, F&& f) {
    switch (chunks) {
        case 1: return f(std::integral_constant<int, 1>{});
        case 2: return f(std::integral_constant<int, 2>{});
        case 3: return f(std::integral_constant<int, 3>{});
        case 4: return f(std::integral_constant<int, 4>{});
        case 5: return f(std::integral_constant<int, 5>{});
        case 6: return f(std::integral_constant<int, 6>{});
        case 7: return f(std::integral_constant<int, 7>{});
        case 8: return f(std::integral_constant<int, 8>{});
        default: return f(std::integral_constant<int, 0>{});
    }
}

// Entries of one row of C: of columns[p], or, where that is null, of first + p.
template <class T>
struct Entries {
    const T* values;
    const std::int32_t* columns;
    std::int64_t first, count;
};

template <class T>
BITRELAX_INLINE Entries<T> sparse_row(const Matrix<T>& off, std::int64_t i) {
    const std::int64_t start = off.starts[i];
    return {off.entries + start, off.columns + start, 0, off.starts[i + 1] - start};
}

// g += sum_p values[p] v_p over W registers of columns. Few registers are summed in several sets: one set would wait
// for the latency of its own additions.
template <bool SPARSE, class T, int W>
BITRELAX_INLINE void add_terms(const Entries<T>& row, const T* factor, std::int64_t width, Vec<T>* g) {
    constexpr int SETS = W >= 4 ? 1 : W == 1 ? 4 : 2;
    Vec<T> part[SETS][W] = {};
    const auto term = [&](int set, std::int64_t p) __attribute__((always_inline)) {
        const T* v = factor + (SPARSE ? static_cast<std::int64_t>(row.columns[p]) : row.first + p) * width;
        const Vec<T> c = all(row.values[p]);
        for (int w = 0; w < W; ++w)
            part[set][w] = multiply_add(c, load(v + w * Register<T>::LANES), part[set][w]);
    };
    std::int64_t p = 0;
    for (; p + SETS <= row.count; p += SETS)
        for (int set = 0; set < SETS; ++set) term(set, p + set);
    for (; p < row.count; ++p) term(0, p);
    for (int set = 1; set < SETS; ++set)
        for (int w = 0; w < W; ++w) part[0][w] += part[set][w];
    for (int w = 0; w < W; ++w) g[w] += part[0][w];
}

// The same over a whole row of CHUNKS chunks, or of any number where CHUNKS = 0.
template <bool SPARSE, int CHUNKS, class T>
BITRELAX_INLINE void add_row(const Entries<T>& row, const T* factor, std::int64_t width, Vec<T>* g) {
    if constexpr (CHUNKS) return add_terms<SPARSE, T, CHUNKS * PER>(row, factor, width, g);
    std::int64_t w = 0;
    const std::int64_t registers = width / Register<T>::LANES;
    for (; w + 4 * PER <= registers; w += 4 * PER)
        add_terms<SPARSE, T, 4 * PER>(row, factor + w * Register<T>::LANES, width, g + w);
    for (; w < registers; w += PER) add_terms<SPARSE, T, PER>(row, factor + w * Register<T>::LANES, width, g + w);
}

// out (R rows, stride `width`) += C (R rows, stride `columns`) V over `count` columns of C and W registers of V's.
template <class T, int R, int W>
BITRELAX_INLINE void tile(const T* C, std::int64_t columns, const T* V, std::int64_t width, std::int64_t count,
                          T* out) {
    constexpr int L = Register<T>::LANES;
    Vec<T> total[R][W] = {};
    for (std::int64_t j = 0; j < count; ++j) {
        Vec<T> v[W];
        for (int w = 0; w < W; ++w) v[w] = load(V + j * width + w * L);
        for (int r = 0; r < R; ++r) {
            const Vec<T> c = all(C[r * columns + j]);
            for (int w = 0; w < W; ++w) total[r][w] = multiply_add(c, v[w], total[r][w]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int w = 0; w < W; ++w) store(out + r * width + w * L, load(out + r * width + w * L) + total[r][w]);
}

template <class T, int W>
BITRELAX_INLINE void tiles(const T* C, std::int64_t rows, std::int64_t columns, const T* V, std::int64_t width,
                           std::int64_t count, T* out) {
    constexpr int R = BYTES == 64 && W < 4 ? 8 : 4;
    std::int64_t r = 0;
    for (; r + R <= rows; r += R) tile<T, R, W>(C + r * columns, columns, V, width, count, out + r * width);
    for (; r < rows; ++r) tile<T, 1, W>(C + r * columns, columns, V, width, count, out + r * width);
}

constexpr std::int64_t BLOCK = 64;  // rows of C, and columns, of one product: 64 rows of V stay in the first cache

// out (rows, width) += C[start:start + rows, first:last] V[first:last].
template <class T>
void add_product(const Matrix<T>& off, std::int64_t start, std::int64_t rows, std::int64_t first, std::int64_t last,
                 const T* V, std::int64_t width, T* out) {
    constexpr int L = Register<T>::LANES, WIDEST = BYTES == 64 ? 4 : 2;
    for (std::int64_t j = first; j < last; j += BLOCK) {
        const std::int64_t count = std::min(BLOCK, last - j);
        const T* C = off.entries + start * off.rows + j;
        for (std::int64_t w = 0; w < width;) {
            const T* part = V + j * width + w;
            const std::int64_t left = (width - w) / L;
            if (WIDEST == 4 && left >= 4 && left != 5 && left != 6 && left != 9) {
                tiles<T, WIDEST>(C, rows, off.rows, part, width, count, out + w);
                w += WIDEST * L;
            } else if (left >= 3) {
                tiles<T, 3>(C, rows, off.rows, part, width, count, out + w);
                w += 3 * L;
            } else if (left == 2) {
                tiles<T, 2>(C, rows, off.rows, part, width, count, out + w);
                w += 2 * L;
            } else {
                tiles<T, 1>(C, rows, off.rows, part, width, count, out + w);
                w += L;
            }
        }
    }
}

// v_i <- -g / |g|, y_i <- -|g|. overlap gathers <g, v_i before>.
template <int CHUNKS, class T>
BITRELAX_INLINE double minimise(const Vec<T>* g, std::int64_t width, T* v, T* y, Vec<T>& overlap) {
    constexpr int L = Register<T>::LANES;
    const std::int64_t registers = CHUNKS ? CHUNKS * PER : width / L;
    Vec<T> squares{};
    for (std::int64_t w = 0; w < registers; ++w) squares = multiply_add(g[w], g[w], squares);
    const T length = std::sqrt(sum<T>(squares));
    *y = -length;
    if (!(length > 0)) return 0.0;
    const Vec<T> scale = all(T(-1) / length);
    for (std::int64_t w = 0; w < registers; ++w) {
        overlap = multiply_add(g[w], load(v + w * L), overlap);
        store(v + w * L, g[w] * scale);
    }
    return length;
}

template <int CHUNKS, class T>
double sweep_sparse(const Sweep<T>& a, Vec<T>* g) {
    const std::int64_t width = a.width, registers = CHUNKS ? CHUNKS * PER : width / Register<T>::LANES;
    Vec<T> overlap{};
    double lengths = 0.0;
    for (std::int64_t i = 0; i < a.off.rows; ++i) {
        Vec<T> fixed[CHUNKS ? CHUNKS * PER : 1];
        Vec<T>* sums = CHUNKS ? fixed : g;
        for (std::int64_t w = 0; w < registers; ++w) sums[w] = Vec<T>{};
        add_row<true, CHUNKS>(sparse_row(a.off, i), a.factor, width, sums);
        lengths += minimise<CHUNKS>(sums, width, a.factor + i * width, a.multipliers + i, overlap);
    }
    return 2 * (lengths + sum<T>(overlap));
}

// By blocks of rows: what lies outside a block as one product, then row after row what changes within.
template <int CHUNKS, class T>
double sweep_dense(const Sweep<T>& a, Vec<T>* g) {
    constexpr int L = Register<T>::LANES;
    const std::int64_t n = a.off.rows, width = a.width, registers = CHUNKS ? CHUNKS * PER : width / L;
    std::vector<T> outside(BLOCK * width);
    Vec<T> overlap{};
    double lengths = 0.0;
    for (std::int64_t start = 0; start < n; start += BLOCK) {
        const std::int64_t stop = std::min(start + BLOCK, n);
        std::fill(outside.begin(), outside.end(), T(0));
        add_product(a.off, start, stop - start, 0, start, a.factor, width, outside.data());
        add_product(a.off, start, stop - start, stop, n, a.factor, width, outside.data());
        for (std::int64_t i = start; i < stop; ++i) {
            Vec<T> fixed[CHUNKS ? CHUNKS * PER : 1];
            Vec<T>* sums = CHUNKS ? fixed : g;
            for (std::int64_t w = 0; w < registers; ++w) sums[w] = load(outside.data() + (i - start) * width + w * L);
            const Entries<T> within{a.off.entries + i * n + start, nullptr, start, stop - start};
            add_row<false, CHUNKS>(within, a.factor, width, sums);
            lengths += minimise<CHUNKS>(sums, width, a.factor + i * width, a.multipliers + i, overlap);
        }
    }
    return 2 * (lengths + sum<T>(overlap));
}

template <class T>
double swept(const Sweep<T>& a) {
    std::vector<Vec<T>> g(a.width / Register<T>::LANES);
    return with_chunks(a.width * sizeof(T) / 64, [&](auto chunks) {
        return a.off.starts ? sweep_sparse<chunks.value>(a, g.data()) : sweep_dense<chunks.value>(a, g.data());
    });
}

// into <- C V.
template <int CHUNKS>
void multiply(const Matrix<double>& off, const double* factor, std::int64_t columns, double* into) {
    const std::int64_t n = off.rows, width = CHUNKS ? CHUNKS * 8 : columns;
    if (!off.starts || !CHUNKS) std::fill(into, into + n * width, 0.0);
    if (!off.starts) {
        for (std::int64_t start = 0; start < n; start += BLOCK)
            add_product(off, start, std::min(BLOCK, n - start), 0, n, factor, width, into + start * width);
        return;
    }
    for (std::int64_t i = 0; i < n; ++i) {
        const Entries<double> row = sparse_row(off, i);
        if constexpr (CHUNKS) {
            Vec<double> g[CHUNKS * PER] = {};
            add_terms<true, double, CHUNKS * PER>(row, factor, width, g);
            for (int w = 0; w < CHUNKS * PER; ++w) store(into + i * width + w * LANES, g[w]);
        } else {
            for (std::int64_t w = 0; w < width; w += 8) {
                Vec<double> g[PER] = {};
                add_terms<true, double, PER>(row, factor + w, width, g);
                for (int r = 0; r < PER; ++r) store(into + i * width + w + r * LANES, g[r]);
            }
        }
    }
}

// From C V to gradients, row after row, with what they add up to.
template <int CHUNKS>
GradientSums finish(const Gradient& a) {
    const std::int64_t n = a.off.rows, width = CHUNKS ? CHUNKS * 8 : a.width;
    Compensated multipliers;
    Vec<double> gradients{}, products{};
    double changes = 0.0;
    std::fill(a.products, a.products + 2 * SLOTS, 0.0);
    for (std::int64_t start = 0; start < n; start += BLOCK) {
        const std::int64_t stop = std::min(start + BLOCK, n);
        Eight change{}, pairs[2 * SLOTS] = {};
        for (std::int64_t i = start; i < stop; ++i) {
            const double *v = a.factor + i * width, *before = a.before + i * width;
            double* into = a.gradient + i * width;
            Vec<double> overlap{};
            for (std::int64_t w = 0; w < width; w += LANES) {
                const Vec<double> g = load(into + w);
                overlap = multiply_add(g, load(v + w), overlap);
                products = multiply_add(g, g, products);
            }
            const double y = sum<double>(overlap);
            a.multipliers[i] = y;
            multipliers.add(y);
            const Vec<double> minus = all(-y), inverse = all(1.0 / (a.scale * a.root[i]));
            for (std::int64_t w = 0; w < width; w += LANES) {
                const Vec<double> g = multiply_add(minus, load(v + w), load(into + w));
                gradients = multiply_add(g, g, gradients);
                store(into + w, g * inverse);
            }
            std::uint16_t* row = a.pairs + i * 2 * SLOTS * width;
            for (std::int64_t k = 0; k < width; k += 8) {
                const EightDoubles now = eight(into + k);
                const Eight g = single(now);
                const Eight stored = narrowed(row + (SLOTS + a.tried) * width + k, single(now - eight(before + k)));
                change = multiply_add(stored, stored, change);
                BITRELAX_UNROLLED
                for (int j = 0; j < 2 * SLOTS; ++j)
                    pairs[j] = multiply_add(g, widened(row + j * width + k), pairs[j]);
            }
        }
        changes += sum_of(change);
        for (int j = 0; j < 2 * SLOTS; ++j) a.products[j] += sum_of(pairs[j]);
    }
    return {multipliers.value(), sum<double>(gradients), sum<double>(products), changes};
}

// The pairs a step combines: where each lies in a row's history, and its coefficient in every lane.
struct Terms {
    explicit Terms(const Step& a) {
        for (int j = 0; j < 2 * SLOTS; ++j) {
            if (a.by_pairs[j] == 0.0) continue;
            offset[count] = j * a.width;
            by[count++] = static_cast<float>(a.by_pairs[j]) - Eight{};
        }
    }
    int count = 0;
    std::int64_t offset[2 * SLOTS];
    Eight by[2 * SLOTS];
};

// combined <- the combination of one row's pairs.
template <int CHUNKS>
BITRELAX_INLINE void combine(const Terms& terms, const std::uint16_t* row, std::int64_t chunks, Eight* combined) {
    const std::int64_t count = CHUNKS ? CHUNKS : chunks;
    for (std::int64_t c = 0; c < count; ++c) combined[c] = Eight{};
    for (int t = 0; t < terms.count; ++t) {
        const std::uint16_t* pair = row + terms.offset[t];
        for (std::int64_t c = 0; c < count; ++c)
            combined[c] = multiply_add(terms.by[t], widened(pair + c * 8), combined[c]);
    }
}

template <int CHUNKS>
double stepped(const Step& a) {
    const std::int64_t width = CHUNKS ? CHUNKS * 8 : a.width, chunks = width / 8;
    const Terms terms(a);
    std::vector<Eight> room(CHUNKS ? 0 : chunks);
    double slopes = 0.0;
    for (std::int64_t start = 0; start < a.rows; start += BLOCK) {
        const std::int64_t stop = std::min(start + BLOCK, a.rows);
        Eight slope{};
        for (std::int64_t i = start; i < stop; ++i) {
            const double *v = a.factor + i * width, *gradient = a.gradient + i * width;
            double* moved = a.moved + i * width;
            std::uint16_t* row = a.pairs + i * 2 * SLOTS * width;
            Eight fixed[CHUNKS ? CHUNKS : 1];
            Eight* combined = CHUNKS ? fixed : room.data();
            combine<CHUNKS>(terms, row, chunks, combined);
            EightDoubles overlap{}, squares{};
            for (std::int64_t c = 0; c < chunks; ++c) {
                const EightDoubles p =
                    a.by_gradient * eight(gradient + c * 8) + __builtin_convertvector(combined[c], EightDoubles);
                overlap += p * eight(v + c * 8);
                keep(moved + c * 8, p);
            }
            const double radial = sum_of(overlap), scaled = a.length / a.root[i];
            for (std::int64_t c = 0; c < chunks; ++c) {
                const EightDoubles old = eight(v + c * 8), tangent = eight(moved + c * 8) - radial * old;
                const EightDoubles next = old + scaled * tangent;
                squares += next * next;
                keep(moved + c * 8, next);
                const Eight tried = narrowed(row + a.tried * width + c * 8, single(a.length * tangent));
                slope = multiply_add(tried, single(eight(gradient + c * 8)), slope);
            }
            const double inverse = 1.0 / std::sqrt(sum_of(squares));
            for (std::int64_t c = 0; c < chunks; ++c) keep(moved + c * 8, inverse * eight(moved + c * 8));
        }
        slopes += sum_of(slope);
    }
    return slopes;
}

}  // namespace

double sweep(const Sweep<double>& a) { return swept(a); }

double sweep_single(const Sweep<float>& a) { return swept(a); }

GradientSums gradient(const Gradient& a) {
    return with_chunks(a.width / 8, [&](auto chunks) {
        // Two passes: the history, streaming past, would push V out of the cache that the product gathers it from.
        multiply<chunks.value>(a.off, a.factor, a.width, a.gradient);
        return finish<chunks.value>(a);
    });
}

double step(const Step& a) {
    return with_chunks(a.width / 8, [&](auto chunks) { return stepped<chunks.value>(a); });
}

}  // namespace bitrelax::BITRELAX_LEVEL
