// The Python module core._native._kernels: one kernel call without the interpreter's lock. Kernels of training are
// here, those of the solvers in *_module.cpp.
//
// Callers of the former pass a CPU level (see Level) and addresses of arrays that they own and have checked: core/native.py does.

#include <cstdint>
#include <utility>

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>

#include "dispatch.h"

#ifdef BITRELAX_X86
#include <xmmintrin.h>
#endif

namespace nb = nanobind;

void bind_sweeps(nb::module_&);
void bind_signs(nb::module_&);
void bind_elimination(nb::module_&);
void bind_batch(nb::module_&);
void bind_bitsum(nb::module_&);
void bind_packed(nb::module_&);

using namespace nb::literals;
using namespace bitrelax;

namespace {

using Address = std::uintptr_t;
using Words = std::pair<std::uint32_t, std::uint32_t>;

float* at(Address address) { return reinterpret_cast<float*>(address); }
Key key_of(Words words) { return {words.first, words.second}; }

// Denormal results and operands count as 0 while a kernel runs: they appear in saturated weights and cost 100 cycles.
class FlushDenormals {
#ifdef BITRELAX_X86
   public:
    FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
    ~FlushDenormals() { _mm_setcsr(saved_); }

   private:
    unsigned saved_;
#endif
};

template <class Arguments>
void run(void (*kernel)(const Arguments&), const Arguments& arguments) {
    const nb::gil_scoped_release unlocked;
    const FlushDenormals flushed;
    kernel(arguments);
}

BernoulliDraw draw_of(std::int64_t size, Address natural, Address weights, Address factor, Words key, float temperature,
                      float bound, float floor, float damping, bool published) {
    return {size, at(natural), at(weights), at(factor), key_of(key), temperature, bound, floor, damping, published};
}

}  // namespace

NB_MODULE(_kernels, m) {
    m.attr("FLAGS") = BITRELAX_FLAGS;
#ifdef __clang__
    m.attr("COMPILER") = __VERSION__;
#else
    m.attr("COMPILER") = "GCC " __VERSION__;
#endif
    m.def("best_level", [] { return static_cast<int>(best_level()); });
    m.def(
        "point_adam",
        [](int level, std::int64_t size, Address gradient, Address latent, Address first, Address second,
           Address weights, float rate, float beta1, float beta2, float root, float eps, float bound) {
            run(BITRELAX_AT(static_cast<Level>(level), point_adam),
                PointAdam{size, at(gradient), at(latent), at(first), at(second), at(weights), rate, beta1, beta2, root,
                          eps, bound});
        },
        "level"_a, "size"_a, "gradient"_a, "latent"_a, "first"_a, "second"_a, "weights"_a, nb::kw_only(), "rate"_a,
        "beta1"_a, "beta2"_a, "root"_a, "eps"_a, "bound"_a);
    m.def(
        "point_bop",
        [](int level, std::int64_t size, Address gradient, Address signs, Address average, float adaptivity,
           float threshold) {
            run(BITRELAX_AT(static_cast<Level>(level), point_bop),
                PointBop{size, at(gradient), at(signs), at(average), adaptivity, threshold});
        },
        "level"_a, "size"_a, "gradient"_a, "signs"_a, "average"_a, nb::kw_only(), "adaptivity"_a, "threshold"_a);
    m.def(
        "bernoulli_draw",
        [](int level, std::int64_t size, Address natural, Address weights, Address factor, Words key, float temperature,
           float bound, bool published, float floor, float damping) {
            run(BITRELAX_AT(static_cast<Level>(level), bernoulli_draw),
                draw_of(size, natural, weights, factor, key, temperature, bound, floor, damping, published));
        },
        "level"_a, "size"_a, "natural"_a, "weights"_a, "factor"_a, nb::kw_only(), "key"_a, "temperature"_a,
        "bound"_a, "published"_a, "floor"_a, "damping"_a);
    m.def(
        "bernoulli_step",
        [](int level, std::int64_t size, Address gradient, Address prior, Address natural, Address velocity,
           Address weights, Address factor, Words key, float temperature, float bound, bool published, float floor,
           float damping, float scale, float rate, float momentum, float decay) {
            run(BITRELAX_AT(static_cast<Level>(level), bernoulli_step),
                BernoulliStep{draw_of(size, natural, weights, factor, key, temperature, bound, floor, damping, published),
                              at(gradient), at(prior), at(natural), at(velocity), scale, rate, momentum, decay});
        },
        "level"_a, "size"_a, "gradient"_a, "prior"_a, "natural"_a, "velocity"_a, "weights"_a, "factor"_a, nb::kw_only(),
        "key"_a, "temperature"_a, "bound"_a, "published"_a, "floor"_a, "damping"_a, "scale"_a, "rate"_a, "momentum"_a,
        "decay"_a);
    m.def(
        "bernoulli_moments",
        [](int level, std::int64_t size, Address natural, Address mean, Address variance) {
            run(BITRELAX_AT(static_cast<Level>(level), bernoulli_moments),
                BernoulliMoments{size, at(natural), at(mean), at(variance)});
        },
        "level"_a, "size"_a, "natural"_a, "mean"_a, "variance"_a);
    m.def(
        "bernoulli_pull_back",
        [](int level, std::int64_t size, Address mean, Address variance, Address by_mean, Address by_variance,
           Address pulled) {
            run(BITRELAX_AT(static_cast<Level>(level), bernoulli_pull_back),
                BernoulliPullBack{size, at(mean), at(variance), at(by_mean), at(by_variance), at(pulled)});
        },
        "level"_a, "size"_a, "mean"_a, "variance"_a, "by_mean"_a, "by_variance"_a, "pulled"_a);
    m.def(
        "lowrank_draw",
        [](int level, std::int64_t size, int rank, Address rows, Address coefficients, Address weights) {
            run(BITRELAX_AT(static_cast<Level>(level), lowrank_draw),
                LowRankDraw{size, rank, at(rows), at(coefficients), at(weights)});
        },
        "level"_a, "size"_a, "rank"_a, "rows"_a, "coefficients"_a, "weights"_a);
    m.def(
        "lowrank_step",
        [](int level, std::int64_t size, int rank, Address gradient, Address used, Address coefficients, Address rows,
           Address velocity, Address weights, float scale, float rate, float momentum, float decay, bool unit) {
            run(BITRELAX_AT(static_cast<Level>(level), lowrank_step),
                LowRankStep{size, rank, at(gradient), at(used), at(coefficients), at(rows), at(velocity), at(weights),
                            scale, rate, momentum, decay, unit});
        },
        "level"_a, "size"_a, "rank"_a, "gradient"_a, "used"_a, "coefficients"_a, "rows"_a, "velocity"_a, "weights"_a,
        nb::kw_only(), "scale"_a, "rate"_a, "momentum"_a, "decay"_a, "unit"_a);
    bind_sweeps(m);
    bind_signs(m);
    bind_elimination(m);
    bind_batch(m);
    bind_bitsum(m);
    bind_packed(m);
}
