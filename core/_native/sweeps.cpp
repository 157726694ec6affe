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

namespace bitrelax::BITRELAX_LEVEL {

namespace {

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX2__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif

// One register of T, and the floats that widen to one register of doubles.
template <class T>
struct Register {
    typedef T type __attribute__((vector_size(BYTES)));
    typedef T unaligned __attribute__((vector_size(BYTES), aligned(sizeof(T))));
    static constexpr int LANES = BYTES / sizeof(T);
};
template <class T>
using Vec = typename Register<T>::type;
typedef float Half __attribute__((vector_size(BYTES / 2)));
typedef float UnalignedHalf __attribute__((vector_size(BYTES / 2), aligned(4)));
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
BITRELAX_INLINE Vec<double> widened(const float* from) {
    return __builtin_convertvector(*reinterpret_cast<const UnalignedHalf*>(from), Vec<double>);
}
// Stores v rounded to float32; returns what was stored.
BITRELAX_INLINE Vec<double> narrowed(float* to, Vec<double> v) {
    const Half rounded = __builtin_convertvector(v, Half);
    *reinterpret_cast<UnalignedHalf*>(to) = rounded;
    return __builtin_convertvector(rounded, Vec<double>);
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

// g += sum_p values[p] v_p over W registers of columns. Few registers are summed in several sets: one set would wait for
// the latency of its own additions.
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
BITRELAX_INLINE void tile(const T* C, std::int64_t columns, const T* V, std::int64_t width, std::int64_t count, T* out) {
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

// What gradients of all rows add up to.
struct Totals {
    Compensated multipliers;
    Vec<double> gradient{}, product{}, change{}, pairs[2 * SLOTS]{};
};

// The gradient of one row from g = (C V)_i, the change of it, and inner products with that row of every pair.
template <int CHUNKS>
BITRELAX_INLINE void finish_row(const Gradient& a, std::int64_t i, Vec<double>* g, Totals& totals) {
    const std::int64_t width = a.width, registers = CHUNKS ? CHUNKS * PER : width / LANES;
    const double* v = a.factor + i * width;
    const double* before = a.before + i * width;
    double* gradient = a.gradient + i * width;
    float* pairs = a.pairs + i * 2 * SLOTS * width;
    Vec<double> overlap{};
    for (std::int64_t w = 0; w < registers; ++w) {
        overlap = multiply_add(g[w], load(v + w * LANES), overlap);
        totals.product = multiply_add(g[w], g[w], totals.product);
    }
    const double y = sum<double>(overlap);
    a.multipliers[i] = y;
    totals.multipliers.add(y);
    const Vec<double> minus = all(-y), inverse = all(1.0 / (a.scale * a.root[i]));
    for (std::int64_t w = 0; w < registers; ++w) {
        g[w] = multiply_add(minus, load(v + w * LANES), g[w]);
        totals.gradient = multiply_add(g[w], g[w], totals.gradient);
        g[w] *= inverse;
        const Vec<double> change = narrowed(pairs + (SLOTS + a.tried) * width + w * LANES, g[w] - load(before + w * LANES));
        totals.change = multiply_add(change, change, totals.change);
        store(gradient + w * LANES, g[w]);
    }
    for (int j = 0; j < 2 * SLOTS; ++j)
        for (std::int64_t w = 0; w < registers; ++w)
            totals.pairs[j] = multiply_add(g[w], widened(pairs + j * width + w * LANES), totals.pairs[j]);
}

template <int CHUNKS>
void gradients(const Gradient& a, Vec<double>* g, Totals& totals) {
    const std::int64_t n = a.off.rows, width = a.width, registers = CHUNKS ? CHUNKS * PER : width / LANES;
    std::vector<double> product(a.off.starts ? 0 : BLOCK * width);
    for (std::int64_t start = 0; start < n; start += BLOCK) {
        const std::int64_t stop = std::min(start + BLOCK, n);
        if (!a.off.starts) {
            std::fill(product.begin(), product.end(), 0.0);
            add_product(a.off, start, stop - start, 0, n, a.factor, width, product.data());
        }
        for (std::int64_t i = start; i < stop; ++i) {
            Vec<double> fixed[CHUNKS ? CHUNKS * PER : 1];
            Vec<double>* sums = CHUNKS ? fixed : g;
            if (a.off.starts) {
                for (std::int64_t w = 0; w < registers; ++w) sums[w] = Vec<double>{};
                add_row<true, CHUNKS>(sparse_row(a.off, i), a.factor, width, sums);
            } else {
                for (std::int64_t w = 0; w < registers; ++w)
                    sums[w] = load(product.data() + (i - start) * width + w * LANES);
            }
            finish_row<CHUNKS>(a, i, sums, totals);
        }
    }
}

template <int CHUNKS>
double stepped(const Step& a, Vec<double>* direction) {
    const std::int64_t width = a.width, registers = CHUNKS ? CHUNKS * PER : width / LANES;
    int used[2 * SLOTS], terms = 0;
    for (int j = 0; j < 2 * SLOTS; ++j)
        if (a.by_pairs[j] != 0.0) used[terms++] = j;
    Vec<double> slope{};
    for (std::int64_t i = 0; i < a.rows; ++i) {
        Vec<double> fixed[CHUNKS ? CHUNKS * PER : 1];
        Vec<double>* p = CHUNKS ? fixed : direction;
        const double* v = a.factor + i * width;
        const double* gradient = a.gradient + i * width;
        float* pairs = a.pairs + i * 2 * SLOTS * width;
        double* moved = a.moved + i * width;
        const Vec<double> by_gradient = all(a.by_gradient);
        for (std::int64_t w = 0; w < registers; ++w) p[w] = by_gradient * load(gradient + w * LANES);
        for (int t = 0; t < terms; ++t) {
            const Vec<double> by = all(a.by_pairs[used[t]]);
            const float* pair = pairs + used[t] * width;
            for (std::int64_t w = 0; w < registers; ++w) p[w] = multiply_add(by, widened(pair + w * LANES), p[w]);
        }
        Vec<double> overlap{}, squares{};
        for (std::int64_t w = 0; w < registers; ++w) overlap = multiply_add(p[w], load(v + w * LANES), overlap);
        const Vec<double> radial = all(-sum<double>(overlap)), length = all(a.length), scaled = all(a.length / a.root[i]);
        for (std::int64_t w = 0; w < registers; ++w) {
            const Vec<double> old = load(v + w * LANES), tangent = multiply_add(radial, old, p[w]);
            const Vec<double> tried = narrowed(pairs + a.tried * width + w * LANES, tangent * length);
            slope = multiply_add(tried, load(gradient + w * LANES), slope);
            p[w] = multiply_add(tangent, scaled, old);
            squares = multiply_add(p[w], p[w], squares);
        }
        const Vec<double> inverse = all(1.0 / std::sqrt(sum<double>(squares)));
        for (std::int64_t w = 0; w < registers; ++w) store(moved + w * LANES, p[w] * inverse);
    }
    return sum<double>(slope);
}

}  // namespace

double sweep(const Sweep<double>& a) { return swept(a); }

double sweep_single(const Sweep<float>& a) { return swept(a); }

GradientSums gradient(const Gradient& a) {
    std::vector<Vec<double>> g(a.width / LANES);
    Totals totals;
    with_chunks(a.width / 8, [&](auto chunks) { gradients<chunks.value>(a, g.data(), totals); });
    for (int j = 0; j < 2 * SLOTS; ++j) a.products[j] = sum<double>(totals.pairs[j]);
    return {totals.multipliers.value(), sum<double>(totals.gradient), sum<double>(totals.product),
            sum<double>(totals.change)};
}

double step(const Step& a) {
    std::vector<Vec<double>> direction(a.width / LANES);
    return with_chunks(a.width / 8, [&](auto chunks) { return stepped<chunks.value>(a, direction.data()); });
}

}  // namespace bitrelax::BITRELAX_LEVEL
