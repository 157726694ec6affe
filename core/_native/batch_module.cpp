// Bindings of batch.h: a state keeps the arrays of a batch alive, checked against each other once.
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <tuple>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "batch.h"
#include "checks.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace bitrelax;

namespace {

template <class T, int dimensions>
using Array = nb::ndarray<T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;
using Tasks = Array<const std::int64_t, 1>;

template <class Checked>
void check(const char* name, const Checked& array, std::initializer_list<std::int64_t> shape) {
    std::size_t axis = 0;
    for (const std::int64_t length : shape)
        if (static_cast<std::int64_t>(array.shape(axis++)) != length)
            throw std::invalid_argument(std::string("batch: ") + name + " has a wrong shape");
}

class BatchState {
   public:
    BatchState(Array<const double, 2> off, Array<const double, 2> linear, Array<double, 3> V, Array<double, 3> tangent,
               Array<double, 2> multipliers, Array<double, 2> inverse, Array<double, 4> history, Array<double, 3> inner,
               Array<std::uint8_t, 2> valid, Array<double, 1> step, Array<double, 1> value, Array<double, 1> residual)
        : kept_(off, linear, V, tangent, multipliers, inverse, history, inner, valid, step, value, residual) {
        const std::int64_t T = V.shape(0), n = V.shape(1), width = V.shape(2), m = valid.shape(1);
        require(width % 8 == 0, "batch: V needs a multiple of 8 columns");
        require(m >= 1, "batch: valid needs a column, a pair of the history");
        check("off", off, {n, n});
        check("linear", linear, {T, n});
        check("tangent", tangent, {T, n, width});
        check("multipliers", multipliers, {T, n + 1});
        check("inverse", inverse, {T, n});
        check("history", history, {T, 2 * m, n, width});
        check("inner", inner, {T, 2 * m, 2 * m});
        check("valid", valid, {T, m});
        check("step", step, {T});
        check("value", value, {T});
        check("residual", residual, {T});
        batch_ = {n, width, m, off.data(), linear.data(), V.data(), tangent.data(), multipliers.data(), inverse.data(),
                  history.data(), inner.data(), valid.data(), step.data(), value.data(), residual.data()};
        tasks_ = T;
    }

    const Batch& of(const Tasks& tasks) const {
        for (std::size_t t = 0; t < tasks.size(); ++t)
            require(tasks.data()[t] >= 0 && tasks.data()[t] < tasks_, "batch: no such task");
        return batch_;
    }

   private:
    std::tuple<Array<const double, 2>, Array<const double, 2>, Array<double, 3>, Array<double, 3>, Array<double, 2>,
               Array<double, 2>, Array<double, 4>, Array<double, 3>, Array<std::uint8_t, 2>, Array<double, 1>,
               Array<double, 1>, Array<double, 1>>
        kept_;
    Batch batch_;
    std::int64_t tasks_;
};

}  // namespace

void bind_batch(nb::module_& m) {
    nb::class_<BatchState>(m, "BatchState")
        .def(nb::init<Array<const double, 2>, Array<const double, 2>, Array<double, 3>, Array<double, 3>,
                      Array<double, 2>, Array<double, 2>, Array<double, 4>, Array<double, 3>, Array<std::uint8_t, 2>,
                      Array<double, 1>, Array<double, 1>, Array<double, 1>>(),
             "off"_a, "linear"_a, "V"_a, "tangent"_a, "multipliers"_a, "inverse"_a, "history"_a, "inner"_a, "valid"_a,
             "step"_a, "value"_a, "residual"_a);
    m.def(
        "batch_evaluate",
        [](int level, const BatchState& state, const Tasks& tasks) {
            const Batch& batch = state.of(tasks);
            const auto evaluate = BITRELAX_AT(level_of(level), batch_evaluate);
            const nb::gil_scoped_release unlocked;
            evaluate(batch, tasks.data(), tasks.size());
        },
        "level"_a, "state"_a, "tasks"_a);
    m.def(
        "batch_descend",
        [](int level, const BatchState& state, const Tasks& tasks, std::int64_t first, std::int64_t iterations) {
            const Batch& batch = state.of(tasks);
            const auto descend = BITRELAX_AT(level_of(level), batch_descend);
            require(first >= 0 && iterations >= 0, "batch: first and iterations must be >= 0");
            const nb::gil_scoped_release unlocked;
            descend(batch, tasks.data(), tasks.size(), first, iterations);
        },
        "level"_a, "state"_a, "tasks"_a, nb::kw_only(), "first"_a, "iterations"_a);
}
