// Bindings of signs.h: checked arrays in, searches without the interpreter's lock.
#include <optional>
#include <utility>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include "checks.h"
#include "signs.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace bitrelax;

namespace {

template <class Number, class Shape>
using Array = nb::ndarray<Number, Shape, nb::c_contig, nb::device::cpu>;
using Signs = Array<std::int8_t, nb::ndim<1>>;
using ManySigns = Array<std::int8_t, nb::ndim<2>>;
using Index = Array<const std::int32_t, nb::ndim<1>>;
template <class Number>
using Vector = Array<Number, nb::ndim<1>>;
template <class Number>
using Matrix = Array<Number, nb::ndim<2>>;

template <class Number>
SignRows<Number> rows_of(const Matrix<const Number>& dense) {
    require(dense.shape(0) == dense.shape(1), "rows must be square");
    return {static_cast<std::int64_t>(dense.shape(0)), dense.data(), nullptr, nullptr, nullptr};
}

template <class Number>
SignRows<Number> rows_of(const Index& starts, const Index& columns, const Vector<const Number>& values) {
    require(starts.shape(0) >= 1 && columns.shape(0) == values.shape(0), "CSR arrays disagree");
    const auto n = static_cast<std::int64_t>(starts.shape(0)) - 1;
    require(starts.data()[n] == static_cast<std::int64_t>(columns.shape(0)), "CSR arrays disagree");
    return {n, nullptr, starts.data(), columns.data(), values.data()};
}

template <class Arguments>
void run(void (*kernel)(const Arguments&), const Arguments& arguments) {
    const nb::gil_scoped_release unlocked;
    kernel(arguments);
}

void descend(int level, const SignRows<double>& rows, const ManySigns& signs, const Matrix<double>& gains,
             double least) {
    const auto n = static_cast<std::size_t>(rows.n);
    require(signs.shape(1) == n && gains.shape(1) == n && gains.shape(0) == signs.shape(0), "signs and gains: (m, n)");
    run(BITRELAX_AT(level_of(level), sign_descent),
        SignDescent{rows, static_cast<std::int64_t>(signs.shape(0)), signs.data(), gains.data(), least});
}

template <class Number>
void search(void (*kernel)(const SignTabu<Number>&), const SignRows<Number>& rows, const Signs& signs,
              const Vector<Number>& gains, std::int64_t flips, std::uint64_t seed, std::int32_t tenure,
              std::int32_t spread, std::int32_t range) {
    const auto n = static_cast<std::size_t>(rows.n);
    require(signs.shape(0) == n && gains.shape(0) == n, "signs and gains: (n,)");
    require(tenure >= 0 && spread >= 1 && tenure + spread <= rows.n, "tenure + spread must be in 1..n");
    run(kernel, SignTabu<Number>{rows, signs.data(), gains.data(), flips, seed, tenure, spread, range});
}

}  // namespace

void bind_signs(nb::module_& m) {
    m.def(
        "sign_descent",
        [](int level, Matrix<const double> rows, ManySigns signs, Matrix<double> gains, double least) {
            descend(level, rows_of(rows), signs, gains, least);
        },
        "level"_a, "rows"_a.noconvert(), "signs"_a.noconvert(), "gains"_a.noconvert(), "least"_a);
    m.def(
        "sign_descent",
        [](int level, Index starts, Index columns, Vector<const double> values, ManySigns signs, Matrix<double> gains,
           double least) { descend(level, rows_of(starts, columns, values), signs, gains, least); },
        "level"_a, "starts"_a.noconvert(), "columns"_a.noconvert(), "values"_a.noconvert(), "signs"_a.noconvert(),
        "gains"_a.noconvert(), "least"_a);
    m.def(
        "sign_tabu",
        [](int level, Matrix<const double> rows, Signs signs, Vector<double> gains, std::int64_t flips,
           std::uint64_t seed, std::int32_t tenure, std::int32_t spread) {
            search<double>(BITRELAX_AT(level_of(level), sign_tabu), rows_of(rows), signs, gains, flips, seed,
                                  tenure, spread, 0);
        },
        "level"_a, "rows"_a.noconvert(), "signs"_a.noconvert(), "gains"_a.noconvert(), "flips"_a, "seed"_a, "tenure"_a,
        "spread"_a);
    m.def(
        "sign_tabu",
        [](int level, Index starts, Index columns, Vector<const double> values, Signs signs, Vector<double> gains,
           std::int64_t flips, std::uint64_t seed, std::int32_t tenure, std::int32_t spread) {
            search<double>(BITRELAX_AT(level_of(level), sign_tabu), rows_of(starts, columns, values), signs,
                                  gains, flips, seed, tenure, spread, 0);
        },
        "level"_a, "starts"_a.noconvert(), "columns"_a.noconvert(), "values"_a.noconvert(), "signs"_a.noconvert(),
        "gains"_a.noconvert(), "flips"_a, "seed"_a, "tenure"_a, "spread"_a);
    m.def(
        "sign_tabu_buckets",
        [](int level, Index starts, Index columns, Vector<const std::int32_t> values, Signs signs,
           Vector<std::int32_t> gains, std::int64_t flips, std::uint64_t seed, std::int32_t tenure,
           std::int32_t spread, std::int32_t range) {
            search<std::int32_t>(BITRELAX_AT(level_of(level), sign_tabu_buckets),
                                        rows_of(starts, columns, values), signs, gains, flips, seed, tenure, spread,
                                        range);
        },
        "level"_a, "starts"_a.noconvert(), "columns"_a.noconvert(), "values"_a.noconvert(), "signs"_a.noconvert(),
        "gains"_a.noconvert(), "flips"_a, "seed"_a, "tenure"_a, "spread"_a, "range"_a);
    m.def(
        "sign_enumerate",
        [](int level, Matrix<const double> rows, Signs signs) {
            require(rows.shape(0) >= 1 && rows.shape(0) <= 32 && signs.shape(0) == rows.shape(0), "1 <= n <= 32 signs");
            run(BITRELAX_AT(level_of(level), sign_enumerate), SignEnumeration{rows_of(rows), signs.data()});
        },
        "level"_a, "rows"_a.noconvert(), "signs"_a.noconvert());
}
