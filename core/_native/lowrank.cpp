// Low-rank laws: signs of rows[0] + sum_k eps_k rows[k]. The rows' gradient is an outer product g eps_k that is never
// formed: pull-back, momentum, retraction to unit rows and next draw in one pass. Of few columns a weight's whole row
// stays in registers, and every array is read and written once; more go by blocks that stay in cache, to the same bits.

#include "elementwise.h"

namespace bitrelax::BITRELAX_LEVEL {

namespace {

constexpr std::int64_t BLOCK = 256;  // weights a block: (rank + 1) x 2 arrays of 1 KiB each, within the first cache

// z = rows[0] + sum_k coefficients[k] rows[k + 1] over one block.
BITRELAX_INLINE void combine(const float* rows, const float* coefficients, int rank, std::int64_t stride,
                             std::int64_t n, float* __restrict z) {
    BITRELAX_VECTOR
    for (std::int64_t i = 0; i < n; ++i) z[i] = rows[i];
    for (int k = 0; k < rank; ++k) {
        const float* __restrict row = rows + (k + 1) * stride;
        const float c = coefficients[k];
        BITRELAX_VECTOR
        for (std::int64_t i = 0; i < n; ++i) z[i] = multiply_add(c, row[i], z[i]);
    }
}

BITRELAX_INLINE void signs(const float* __restrict z, std::int64_t n, float* __restrict weights) {
    BITRELAX_VECTOR
    for (std::int64_t i = 0; i < n; ++i) weights[i] = sign_of(z[i]);
}

// One row of one block: tangent direction, decay, average, move; adds the moved row's squares to `squares`.
template <bool averaged, bool unit>
BITRELAX_INLINE void move(const LowRankStep& a, float used, const float* __restrict gradient,
                          const float* __restrict radial, std::int64_t n, float* __restrict row,
                          float* __restrict velocity, float* __restrict squares) {
    const float coefficient = used * a.scale, decay = a.decay, momentum = a.momentum, rate = a.rate;
    BITRELAX_VECTOR
    for (std::int64_t i = 0; i < n; ++i) {
        const float old = row[i];
        float direction = multiply_add(gradient[i], coefficient, decay * old);
        if (unit) direction = multiply_add(-old, radial[i], direction);
        if (averaged) {
            direction = multiply_add(velocity[i], momentum, (1.0f - momentum) * direction);
            velocity[i] = direction;
        }
        const float moved = multiply_add(-rate, direction, old);
        row[i] = moved;
        if (unit) squares[i] = multiply_add(moved, moved, squares[i]);
    }
}

// The mean and RANK columns of one weight in registers: what `move` and `combine` do, in the same order.
template <int RANK, bool averaged, bool unit>
void step_in_registers(const LowRankStep& a) {
    const float* __restrict gradient = a.gradient;
    float *__restrict rows = a.rows, *__restrict velocity = a.velocity, *__restrict weights = a.weights;
    const float scale = a.scale, decay = a.decay, momentum = a.momentum, rate = a.rate, rest = 1.0f - a.momentum;
    const std::int64_t size = a.size;
    float used[RANK + 1], next[RANK + 1];
    for (int k = 0; k <= RANK; ++k) {
        used[k] = k ? a.used[k - 1] : 1.0f;
        next[k] = k ? a.coefficients[k - 1] : 1.0f;
    }
    BITRELAX_VECTOR
    for (std::int64_t i = 0; i < size; ++i) {
        const float g = gradient[i];
        float row[RANK + 1], radial = 0.0f, squares = 0.0f;
        BITRELAX_UNROLLED
        for (int k = 0; k <= RANK; ++k) {
            row[k] = rows[k * size + i];
            if (unit) radial = k ? multiply_add(used[k], row[k], radial) : row[k];
        }
        if (unit) radial = (g * scale) * radial;  // <gradient of the rows, rows>, for rows of unit length
        BITRELAX_UNROLLED
        for (int k = 0; k <= RANK; ++k) {
            float direction = multiply_add(g, used[k] * scale, decay * row[k]);
            if (unit) direction = multiply_add(-row[k], radial, direction);
            if (averaged) {
                direction = multiply_add(velocity[k * size + i], momentum, rest * direction);
                velocity[k * size + i] = direction;
            }
            row[k] = multiply_add(-rate, direction, row[k]);
            if (unit) squares = multiply_add(row[k], row[k], squares);
        }
        const float inverse = unit ? 1.0f / __builtin_sqrtf(squares) : 1.0f;
        float z = 0.0f;
        BITRELAX_UNROLLED
        for (int k = 0; k <= RANK; ++k) {
            if (unit) row[k] = squares > 0.0f ? row[k] * inverse : (k ? 0.0f : 1.0f);  // as UnitRows.project
            rows[k * size + i] = row[k];
            z = k ? multiply_add(next[k], row[k], z) : row[k];
        }
        weights[i] = sign_of(z);
    }
}

template <bool averaged, bool unit>
void step_in_blocks(const LowRankStep& a) {
    float z[BLOCK], radial[BLOCK], squares[BLOCK];
    for (std::int64_t start = 0; start < a.size; start += BLOCK) {
        const std::int64_t n = a.size - start < BLOCK ? a.size - start : BLOCK;
        const float* gradient = a.gradient + start;
        if (unit) {  // <gradient of the rows, rows> = scale g z, for rows of unit length
            combine(a.rows + start, a.used, a.rank, a.size, n, z);
            BITRELAX_VECTOR
            for (std::int64_t i = 0; i < n; ++i) radial[i] = (gradient[i] * a.scale) * z[i];
            BITRELAX_VECTOR
            for (std::int64_t i = 0; i < n; ++i) squares[i] = 0.0f;
        }
        for (int k = 0; k <= a.rank; ++k) {
            float* row = a.rows + k * a.size + start;
            float* velocity = averaged ? a.velocity + k * a.size + start : nullptr;
            move<averaged, unit>(a, k ? a.used[k - 1] : 1.0f, gradient, radial, n, row, velocity, squares);
        }
        if (unit) {
            BITRELAX_VECTOR
            for (std::int64_t i = 0; i < n; ++i) radial[i] = 1.0f / __builtin_sqrtf(squares[i]);
            for (int k = 0; k <= a.rank; ++k) {
                float* __restrict row = a.rows + k * a.size + start;
                const float lost = k ? 0.0f : 1.0f;  // a zero vector has no direction: e_0, as UnitRows.project
                BITRELAX_VECTOR
                for (std::int64_t i = 0; i < n; ++i) row[i] = squares[i] > 0.0f ? row[i] * radial[i] : lost;
            }
        }
        combine(a.rows + start, a.coefficients, a.rank, a.size, n, z);
        signs(z, n, a.weights + start);
    }
}

template <bool averaged, bool unit>
void step(const LowRankStep& a) {
    switch (a.rank) {
        case 1: return step_in_registers<1, averaged, unit>(a);
        case 2: return step_in_registers<2, averaged, unit>(a);
        case 3: return step_in_registers<3, averaged, unit>(a);
        case 4: return step_in_registers<4, averaged, unit>(a);
        default: return step_in_blocks<averaged, unit>(a);
    }
}

}  // namespace

void lowrank_draw(const LowRankDraw& a) {
    float z[BLOCK];
    for (std::int64_t start = 0; start < a.size; start += BLOCK) {
        const std::int64_t n = a.size - start < BLOCK ? a.size - start : BLOCK;
        combine(a.rows + start, a.coefficients, a.rank, a.size, n, z);
        signs(z, n, a.weights + start);
    }
}

void lowrank_step(const LowRankStep& a) {
    if (a.velocity && a.unit) return step<true, true>(a);
    if (a.velocity) return step<true, false>(a);
    if (a.unit) return step<false, true>(a);
    return step<false, false>(a);
}

}  // namespace bitrelax::BITRELAX_LEVEL
