/* One cyclic sweep of the mixing method, written plainly: what a compiler makes of it is the yardstick of our kernel.

   min <C, VV'>, rows v_i of V of length 1: v_i <- -g / |g|, g = sum_j c_ij v_j, C in compressed sparse rows. Algorithm 1
   of Wang, Chang & Kolter 2017 (arXiv 1706.00476). Compile with -O3 -march=native (-ffast-math lets it vectorise sums).
   Returns the decrease of <C, VV'>. */
#include <math.h>
#include <stdint.h>
#include <string.h>

double mixing_sweep(int64_t n, int64_t k, const double *data, const int32_t *indices, const int32_t *indptr, double *V,
                    double *g) {
    double decrease = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        memset(g, 0, sizeof(double) * k);
        for (int32_t p = indptr[i]; p < indptr[i + 1]; ++p) {
            const double c = data[p];
            const double *v = V + (int64_t)indices[p] * k;
            for (int64_t j = 0; j < k; ++j) g[j] += c * v[j];
        }
        double *v = V + i * k;
        double squares = 0.0, overlap = 0.0;
        for (int64_t j = 0; j < k; ++j) squares += g[j] * g[j];
        const double length = sqrt(squares);
        if (length == 0.0) continue;
        for (int64_t j = 0; j < k; ++j) overlap += g[j] * v[j];
        decrease += 2 * (length + overlap);
        const double scale = -1.0 / length;
        for (int64_t j = 0; j < k; ++j) v[j] = scale * g[j];
    }
    return decrease;
}
