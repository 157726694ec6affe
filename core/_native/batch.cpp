// L-BFGS on many problems that share one matrix, a task at a time: its state stays in the cache. Compiled once a level.
#include "batch.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#if defined(__AVX512F__) || defined(__FMA__)
#include <immintrin.h>
#endif

namespace {

using bitrelax::Batch;

#pragma GCC diagnostic ignored "-Wpsabi"  // no vector crosses the border of this file

constexpr int LANES = 8;
typedef double Lanes __attribute__((vector_size(64), aligned(8)));  // loads of any alignment

inline __attribute__((always_inline)) Lanes at(const double* p) { return *reinterpret_cast<const Lanes*>(p); }
inline __attribute__((always_inline)) void put(double* p, Lanes x) { *reinterpret_cast<Lanes*>(p) = x; }

inline __attribute__((always_inline)) double total(Lanes x) {
#if defined(__AVX512F__) && !defined(__clang__)
    typedef long long Places __attribute__((vector_size(64)));
    x += __builtin_shuffle(x, Places{4, 5, 6, 7, 0, 1, 2, 3});
    x += __builtin_shuffle(x, Places{2, 3, 0, 1, 6, 7, 4, 5});
    return x[0] + x[1];
#else
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
#endif
}

// sum += a x, rounded once where the CPU can.
inline __attribute__((always_inline)) void add_product(Lanes& sum, const Lanes& a, const Lanes& x) {
#if defined(__AVX512F__)
    sum = (Lanes)_mm512_fmadd_pd((__m512d)a, (__m512d)x, (__m512d)sum);
#elif defined(__FMA__)
    for (int l = 0; l < LANES; ++l) sum[l] = __builtin_fma(a[l], x[l], sum[l]);
#else
    sum += a * x;
#endif
}

inline __attribute__((always_inline)) void add_product(Lanes& sum, double a, const Lanes& x) {
#if defined(__AVX512F__)
    sum = (Lanes)_mm512_fmadd_pd(_mm512_set1_pd(a), (__m512d)x, (__m512d)sum);
#elif defined(__FMA__)
    for (int l = 0; l < LANES; ++l) sum[l] = __builtin_fma(a, x[l], sum[l]);
#else
    sum += a * x;
#endif
}

double dot(const double* a, const double* b, std::int64_t size) {
    Lanes sums[4] = {};
    std::int64_t i = 0;
    for (; i + 4 * LANES <= size; i += 4 * LANES)
        for (int s = 0; s < 4; ++s) add_product(sums[s], at(a + i + s * LANES), at(b + i + s * LANES));
    for (; i < size; i += LANES) add_product(sums[0], at(a + i), at(b + i));
    return total((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

double row_dot(const double* a, const double* b, std::int64_t width) {
    Lanes sum = {};
    for (std::int64_t c = 0; c < width; c += LANES) add_product(sum, at(a + c), at(b + c));
    return total(sum);
}

// Rows first .. first + R - 1 and columns 0 .. 8 L - 1 of off V, every sum in registers.
template <int R, int L>
void product_block(const Batch& b, const double* V, std::int64_t first, double* out) {
    Lanes sums[R][L] = {};
    for (std::int64_t j = 0; j < b.n; ++j) {
        Lanes row[L];
        for (int l = 0; l < L; ++l) row[l] = at(V + j * b.width + l * LANES);
        for (int r = 0; r < R; ++r) {
            const double entry = b.off[(first + r) * b.n + j];
            for (int l = 0; l < L; ++l) add_product(sums[r][l], entry, row[l]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int l = 0; l < L; ++l) put(out + (first + r) * b.width + l * LANES, sums[r][l]);
}

template <int L>
void product_columns(const Batch& b, const double* V, double* out) {
    constexpr int R = L == 1 ? 8 : 6;
    std::int64_t i = 0;
    for (; i + R <= b.n; i += R) product_block<R, L>(b, V, i, out);
    for (; i < b.n; ++i) product_block<1, L>(b, V, i, out);
}

// out = off V.
void product(const Batch& b, const double* V, double* out) {
    std::int64_t c = 0;
    for (; c + 4 * LANES <= b.width; c += 4 * LANES) product_columns<4>(b, V + c, out + c);
    if (c + 2 * LANES <= b.width) product_columns<2>(b, V + c, out + c), c += 2 * LANES;
    if (c + LANES <= b.width) product_columns<1>(b, V + c, out + c);
}

struct Evaluation {
    double value, residual;
};

// At V: the tangent and the multipliers.
Evaluation evaluate(const Batch& b, std::int64_t task, const double* V, double* tangent, double* multipliers) {
    const double* linear = b.linear + task * b.n;
    product(b, V, tangent);
    double last = 0, sum = 0, along = 0;
    Lanes squares = {};
    for (std::int64_t i = 0; i < b.n; ++i) {
        const double* v = V + i * b.width;
        double* t = tangent + i * b.width;
        t[0] -= linear[i];
        last -= linear[i] * v[0];
        const double y = row_dot(t, v, b.width);
        for (std::int64_t c = 0; c < b.width; c += LANES) {
            Lanes rest = at(t + c);
            add_product(rest, -y, at(v + c));
            add_product(squares, rest, rest);
            put(t + c, rest);
        }
        multipliers[i] = y;
        sum += y, along += y * y;
    }
    multipliers[b.n] = last;
    const double across = total(squares), size = along + across;
    return {sum + last, size > 0 ? std::sqrt(across / size) : 0.0};
}

// What an iteration computes before it knows whether the trial point is accepted.
struct Workspace {
    std::vector<double> scaled, direction, V, tangent, multipliers, dots, coefficients, factors;
    std::vector<const double*> used;

    explicit Workspace(const Batch& b)
        : scaled(b.n * b.width), direction(b.n * b.width), V(b.n * b.width), tangent(b.n * b.width),
          multipliers(b.n + 1), dots(2 * b.memory), coefficients(2 * b.memory),
          factors(2 * b.memory), used(2 * b.memory) {}
};

// One problem of the batch.
class Task {
   public:
    Task(const Batch& batch, std::int64_t task, Workspace& workspace)
        : b(batch), w(workspace), id(task), m(b.memory), size(b.n * b.width), V(b.V + id * size),
          tangent(b.tangent + id * size), inverse(b.inverse + id * b.n), history(b.history + id * 2 * m * size),
          inner(b.inner + id * 4 * m * m), valid(b.valid + id * m) {}

    void iterate(std::int64_t iteration) {
        for (std::int64_t i = 0; i < b.n; ++i)
            for (std::int64_t c = i * b.width; c < (i + 1) * b.width; c += LANES)
                put(&w.scaled[c], at(tangent + c) * inverse[i]);
        for (std::int64_t j = 0; j < 2 * m; ++j)
            w.dots[j] = used(j) ? dot(history + j * size, w.scaled.data(), size) : 0.0;
        double slope = direct(two_loop(iteration));
        if (!(slope < 0)) {
            std::fill(valid, valid + m, std::uint8_t{0});
            std::fill(w.coefficients.begin(), w.coefficients.end(), 0.0);
            slope = direct(0.5);
        }
        move(b.step[id]);
        const Evaluation there = evaluate(b, id, w.V.data(), w.tangent.data(), w.multipliers.data());
        // Equality to rounding is progress: near a solution the decrease is below the last digit of the value.
        const double allowed = 1e-4 * b.step[id] * slope + 1e-14 * std::fabs(b.value[id]);
        const std::int64_t slot = iteration % m;
        if (!(there.value <= b.value[id] + allowed)) {
            b.step[id] *= 0.5;
            valid[slot] = 0;
            return;
        }
        remember(slot);
        std::memcpy(V, w.V.data(), size * sizeof(double));
        std::memcpy(tangent, w.tangent.data(), size * sizeof(double));
        std::memcpy(b.multipliers + id * (b.n + 1), w.multipliers.data(), (b.n + 1) * sizeof(double));
        b.value[id] = there.value, b.residual[id] = there.residual, b.step[id] = 1.0;
    }

   private:
    const Batch& b;
    Workspace& w;
    const std::int64_t id, m, size;
    double *V, *tangent, *inverse, *history, *inner;
    std::uint8_t* valid;

    bool used(std::int64_t j) const { return valid[j % m]; }
    double product_of(std::int64_t i, std::int64_t j) const { return inner[i * 2 * m + j]; }

    // H g as coefficients of the history and, returned, of g itself.
    double two_loop(std::int64_t iteration) {
        double *by_step = w.coefficients.data(), *by_change = by_step + m, scale = 0.5;
        std::fill(w.coefficients.begin(), w.coefficients.end(), 0.0);
        bool newest = true;
        for (std::int64_t age = 1; age <= m; ++age) {
            const std::int64_t i = ((iteration - age) % m + m) % m;
            if (!valid[i]) continue;
            if (newest) scale = product_of(i, m + i) / product_of(m + i, m + i), newest = false;
            double along = w.dots[i];
            for (std::int64_t j = 0; j < m; ++j) along -= product_of(i, m + j) * by_change[j];
            by_change[i] = along / product_of(i, m + i);
        }
        for (std::int64_t age = m; age >= 1; --age) {
            const std::int64_t i = ((iteration - age) % m + m) % m;
            if (!valid[i]) continue;
            double along = w.dots[m + i];
            for (std::int64_t j = 0; j < m; ++j) along -= product_of(m + i, m + j) * by_change[j];
            along *= scale;
            for (std::int64_t j = 0; j < m; ++j) along += product_of(j, m + i) * by_step[j];
            by_step[i] = by_change[i] - along / product_of(i, m + i);
        }
        for (std::int64_t j = 0; j < m; ++j) by_change[j] *= -scale;
        return scale;
    }

    // The direction, tangent at V, and the derivative of the value along it.
    double direct(double scale) {
        Lanes slope = {};
        std::int64_t terms = 0;
        for (std::int64_t j = 0; j < 2 * m; ++j)
            if (used(j)) w.used[terms] = history + j * size, w.factors[terms++] = w.coefficients[j];
        for (std::int64_t i = 0; i < b.n; ++i) {
            double *d = &w.direction[i * b.width], *v = V + i * b.width;
            for (std::int64_t c = 0; c < b.width; c += LANES) {
                Lanes sum = scale * at(&w.scaled[i * b.width + c]);
                for (std::int64_t j = 0; j < terms; ++j)
                    add_product(sum, w.factors[j], at(w.used[j] + i * b.width + c));
                put(d + c, sum * -inverse[i]);
            }
            const double along = row_dot(d, v, b.width);
            for (std::int64_t c = 0; c < b.width; c += LANES) {
                Lanes rest = at(d + c);
                add_product(rest, -along, at(v + c));
                add_product(slope, rest, at(tangent + i * b.width + c));
                put(d + c, rest);
            }
        }
        return 2 * total(slope);
    }

    // The trial point.
    void move(double step) {
        for (std::int64_t i = 0; i < b.n; ++i) {
            double* trial = &w.V[i * b.width];
            Lanes squares = {};
            for (std::int64_t c = 0; c < b.width; c += LANES) {
                Lanes moved = at(V + i * b.width + c);
                add_product(moved, step, at(&w.direction[i * b.width + c]));
                add_product(squares, moved, moved);
                put(trial + c, moved);
            }
            const double inverse_length = 1 / std::sqrt(total(squares));
            for (std::int64_t c = 0; c < b.width; c += LANES) put(trial + c, at(trial + c) * inverse_length);
        }
    }

    // The pair of this step, and its inner products, over the oldest.
    void remember(std::int64_t slot) {
        double *steps = history + slot * size, *changes = history + (m + slot) * size;
        for (std::int64_t i = 0; i < b.n; ++i) {
            const double root = 1 / inverse[i];
            for (std::int64_t c = i * b.width; c < (i + 1) * b.width; c += LANES) {
                put(steps + c, (at(&w.V[c]) - at(V + c)) * root);
                put(changes + c, (at(&w.tangent[c]) - at(tangent + c)) * inverse[i]);
            }
        }
        valid[slot] = 1;
        for (const std::int64_t i : {slot, m + slot})
            for (std::int64_t j = 0; j < 2 * m; ++j)
                if (used(j)) {
                    const double product = dot(history + i * size, history + j * size, size);
                    inner[i * 2 * m + j] = inner[j * 2 * m + i] = product;
                }
        const double lengths = std::sqrt(product_of(slot, slot) * product_of(m + slot, m + slot));
        valid[slot] = product_of(slot, m + slot) > 1e-8 * lengths;
    }
};

}  // namespace

namespace bitrelax::BITRELAX_LEVEL {

void batch_evaluate(const Batch& b, const std::int64_t* tasks, std::int64_t count) {
    for (std::int64_t t = 0; t < count; ++t) {
        const std::int64_t id = tasks[t], size = b.n * b.width;
        const Evaluation here =
            evaluate(b, id, b.V + id * size, b.tangent + id * size, b.multipliers + id * (b.n + 1));
        b.value[id] = here.value, b.residual[id] = here.residual;
    }
}

void batch_descend(const Batch& b, const std::int64_t* tasks, std::int64_t count, std::int64_t first,
                   std::int64_t iterations) {
    Workspace workspace(b);
    for (std::int64_t t = 0; t < count; ++t) {
        Task task(b, tasks[t], workspace);
        for (std::int64_t k = first; k < first + iterations; ++k) task.iterate(k);
    }
}

}  // namespace bitrelax::BITRELAX_LEVEL
