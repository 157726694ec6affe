// Bindings of sweeps.h: arrays in, sums out; shapes are checked, the indices of a sparse matrix are trusted.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>
#include <vector>

#include "checks.h"
#include "sweeps.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace bitrelax;

namespace {

template <class T, int DIMENSIONS>
using Array = nb::ndarray<T, nb::ndim<DIMENSIONS>, nb::c_contig, nb::device::cpu>;
using Indices = Array<const std::int32_t, 1>;

template <class T>
Matrix<T> dense(const Array<const T, 2>& off) {
    require(off.shape(0) == off.shape(1), "C must be square");
    return {static_cast<std::int64_t>(off.shape(0)), off.data(), nullptr, nullptr};
}

template <class T>
Matrix<T> sparse(const Array<const T, 1>& data, const Indices& indices, const Indices& indptr) {
    require(indptr.shape(0) >= 1 && data.shape(0) == indices.shape(0), "C must be compressed sparse rows");
    return {static_cast<std::int64_t>(indptr.shape(0)) - 1, data.data(), indptr.data(), indices.data()};
}

template <class T>
double sweep_with(Level level, const Matrix<T>& off, const Array<T, 2>& factor, const Array<T, 1>& multipliers) {
    const auto rows = static_cast<std::size_t>(off.rows);
    require(factor.shape(0) == rows && multipliers.shape(0) == rows, "C, V and y must have equally many rows");
    require(factor.shape(1) * sizeof(T) % 64 == 0, "columns of V must be padded to 64 bytes");
    const Sweep<T> arguments{off, static_cast<std::int64_t>(factor.shape(1)), factor.data(), multipliers.data()};
    const nb::gil_scoped_release unlocked;
    if constexpr (sizeof(T) == 8)
        return BITRELAX_AT(level, sweep)(arguments);
    else
        return BITRELAX_AT(level, sweep_single)(arguments);
}

using Pairs = Array<std::uint16_t, 4>;

void require_alike(std::int64_t rows, const Array<const double, 2>& factor, std::size_t other, std::size_t columns,
                   const Array<const double, 1>& root, const Pairs& pairs, int tried) {
    const std::size_t n = factor.shape(0), width = factor.shape(1);
    require(n == static_cast<std::size_t>(rows) && other == n && root.shape(0) == n && pairs.shape(0) == n,
            "all arrays must have equally many rows");
    require(width % 8 == 0 && columns == width && pairs.shape(3) == width, "columns must be padded to 8, alike in all");
    require(pairs.shape(1) == 2 && pairs.shape(2) == SLOTS, "pairs must be (n, 2, SLOTS, k)");
    require(tried >= 0 && tried < SLOTS, "the slot tried must be below SLOTS");
}

std::tuple<double, double, double, double> gradient_with(
    Level level, const Matrix<double>& off, const Array<const double, 2>& factor, const Array<const double, 1>& root,
    const Array<const double, 2>& before, const Array<double, 2>& gradient_out, const Array<double, 1>& multipliers,
    const Pairs& pairs, double scale, int tried, const Array<double, 1>& products) {
    require_alike(off.rows, factor, before.shape(0), before.shape(1), root, pairs, tried);
    require_alike(off.rows, factor, gradient_out.shape(0), gradient_out.shape(1), root, pairs, tried);
    require(multipliers.shape(0) == factor.shape(0) && products.shape(0) == 2 * SLOTS, "y (n), products (2 SLOTS)");
    const Gradient arguments{off, static_cast<std::int64_t>(factor.shape(1)), factor.data(), root.data(), before.data(),
                             gradient_out.data(), multipliers.data(), pairs.data(), scale, tried, products.data()};
    GradientSums sums;
    {
        const nb::gil_scoped_release unlocked;
        sums = BITRELAX_AT(level, gradient)(arguments);
    }
    return {sums.multipliers, sums.gradient, sums.product, sums.change};
}

// by_pairs <- coefficients of -H g by the pairs in `order`, oldest first; returned: that by g. See solvers.sdp.kernels.
double combination(const std::vector<int>& order, const Array<const double, 2>& sz, const Array<const double, 2>& zz,
                   const Array<const double, 1>& products, const Array<double, 1>& by_pairs) {
    require(sz.shape(0) == SLOTS && sz.shape(1) == SLOTS && zz.shape(0) == SLOTS && zz.shape(1) == SLOTS,
            "inner products of pairs must be (SLOTS, SLOTS)");
    require(products.shape(0) == 2 * SLOTS && by_pairs.shape(0) == 2 * SLOTS, "products must be (2 SLOTS)");
    const int count = static_cast<int>(order.size());
    require(count >= 1 && count <= SLOTS, "a combination needs a pair");
    for (const int slot : order) require(slot >= 0 && slot < SLOTS, "the slots of pairs must be below SLOTS");
    const double gamma = sz(order[count - 1], order[count - 1]) / zz(order[count - 1], order[count - 1]);
    double q[SLOTS], a[SLOTS];
    for (int i = count - 1; i >= 0; --i) {  // R q = S'g, R the upper triangle of S'Z
        q[i] = products(order[i]);
        for (int j = i + 1; j < count; ++j) q[i] -= sz(order[i], order[j]) * q[j];
        q[i] /= sz(order[i], order[i]);
    }
    for (int i = 0; i < count; ++i) {  // R'a = diag(R) q + gamma (Z'Z q - Z'g)
        double change = -products(SLOTS + order[i]);
        for (int j = 0; j < count; ++j) change += zz(order[i], order[j]) * q[j];
        a[i] = sz(order[i], order[i]) * q[i] + gamma * change;
        for (int j = 0; j < i; ++j) a[i] -= sz(order[j], order[i]) * a[j];
        a[i] /= sz(order[i], order[i]);
    }
    for (int j = 0; j < 2 * SLOTS; ++j) by_pairs(j) = 0.0;
    for (int i = 0; i < count; ++i) {
        by_pairs(order[i]) = -a[i];
        by_pairs(SLOTS + order[i]) = gamma * q[i];
    }
    return -gamma;
}

}  // namespace

void bind_sweeps(nb::module_& m) {
    // An array that does not fit is refused, never converted: results would be written into a copy.
    const auto as = [](const char* name) { return nb::arg(name).noconvert(); };
    m.attr("SLOTS") = SLOTS;
    m.def("combination", &combination, as("order"), as("sz"), as("zz"), as("products"), as("by_pairs"));
    m.def(
        "sweep_dense",
        [](int level, Array<const double, 2> off, Array<double, 2> factor, Array<double, 1> multipliers) {
            return sweep_with<double>(level_of(level), dense(off), factor, multipliers);
        },
        "level"_a, as("off"), as("factor"), as("multipliers"));
    m.def(
        "sweep_sparse",
        [](int level, Array<const double, 1> data, Indices indices, Indices indptr, Array<double, 2> factor,
           Array<double, 1> multipliers) {
            return sweep_with<double>(level_of(level), sparse(data, indices, indptr), factor, multipliers);
        },
        "level"_a, as("data"), as("indices"), as("indptr"), as("factor"), as("multipliers"));
    m.def(
        "sweep_dense_single",
        [](int level, Array<const float, 2> off, Array<float, 2> factor, Array<float, 1> multipliers) {
            return sweep_with<float>(level_of(level), dense(off), factor, multipliers);
        },
        "level"_a, as("off"), as("factor"), as("multipliers"));
    m.def(
        "sweep_sparse_single",
        [](int level, Array<const float, 1> data, Indices indices, Indices indptr, Array<float, 2> factor,
           Array<float, 1> multipliers) {
            return sweep_with<float>(level_of(level), sparse(data, indices, indptr), factor, multipliers);
        },
        "level"_a, as("data"), as("indices"), as("indptr"), as("factor"), as("multipliers"));
    m.def(
        "gradient_dense",
        [](int level, Array<const double, 2> off, Array<const double, 2> factor, Array<const double, 1> root,
           Array<const double, 2> before, Array<double, 2> gradient, Array<double, 1> multipliers, Pairs pairs,
           double scale, int tried, Array<double, 1> products) {
            return gradient_with(level_of(level), dense(off), factor, root, before, gradient, multipliers, pairs, scale,
                                 tried, products);
        },
        "level"_a, as("off"), as("factor"), as("root"), as("before"), as("gradient"), as("multipliers"), as("pairs"),
        "scale"_a, "tried"_a, as("products"));
    m.def(
        "gradient_sparse",
        [](int level, Array<const double, 1> data, Indices indices, Indices indptr, Array<const double, 2> factor,
           Array<const double, 1> root, Array<const double, 2> before, Array<double, 2> gradient,
           Array<double, 1> multipliers, Pairs pairs, double scale, int tried, Array<double, 1> products) {
            return gradient_with(level_of(level), sparse(data, indices, indptr), factor, root, before, gradient,
                                 multipliers, pairs, scale, tried, products);
        },
        "level"_a, as("data"), as("indices"), as("indptr"), as("factor"), as("root"), as("before"), as("gradient"),
        as("multipliers"), as("pairs"), "scale"_a, "tried"_a, as("products"));
    m.def(
        "step",
        [](int level, Array<const double, 2> factor, Array<const double, 1> root, Array<const double, 2> gradient,
           Array<const double, 1> by_pairs, double by_gradient, double length, Array<double, 2> moved, Pairs pairs,
           int tried) {
            const auto rows = static_cast<std::int64_t>(factor.shape(0));
            const auto width = static_cast<std::int64_t>(factor.shape(1));
            require_alike(rows, factor, gradient.shape(0), gradient.shape(1), root, pairs, tried);
            require(moved.shape(0) == factor.shape(0), "V and moved must be alike");
            require(moved.shape(1) == factor.shape(1), "V and moved must be alike");
            require(by_pairs.shape(0) == 2 * SLOTS, "by_pairs must be (2 SLOTS)");
            const Step arguments{rows,        width,  factor.data(), root.data(),  gradient.data(), by_pairs.data(),
                                 by_gradient, length, moved.data(),  pairs.data(), tried};
            const Level known = level_of(level);
            const nb::gil_scoped_release unlocked;
            return BITRELAX_AT(known, step)(arguments);
        },
        "level"_a, as("factor"), as("root"), as("gradient"), as("by_pairs"), "by_gradient"_a,
        "length"_a, as("moved"), as("pairs"), "tried"_a);
}
