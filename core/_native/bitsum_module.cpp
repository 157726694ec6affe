// Bindings of bitsum.h: one call of a bit kernel on arrays that are checked against each other, for tests and benches.
// A packed network's own calls do not pass here.
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>

#include "bitsum.h"
#include "checks.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace bitrelax;

namespace {

template <class T, int dimensions>
using Array = nb::ndarray<T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;
using Numbers = Array<const std::int32_t, 2>;
using Factors = Array<const float, 1>;

template <class Checked>
std::int64_t length(const Checked& array, int axis) { return static_cast<std::int64_t>(array.shape(axis)); }

Level packed_level_of(int level) {
    require(level >= 0 && level <= static_cast<int>(best_packed_level()),
            "the CPU level must be in 0..best_packed_level()");
    return static_cast<Level>(level);
}

class Sums {
   public:
    Sums(Array<const std::uint32_t, 1> input, Array<const std::uint32_t, 3> weights, std::int64_t outputs,
         std::int64_t rows, std::int64_t row_pitch, Array<const std::int64_t, 1> offsets, std::int64_t segment_words,
         std::optional<Array<const std::uint16_t, 1>> row_class)
        : kept_(input, weights), offsets_(offsets.data(), offsets.data() + offsets.size()) {
        if (row_class) row_class_.assign(row_class->data(), row_class->data() + row_class->size());
        blocks_ = length(weights, 0);
        of_ = {input.data(), rows,         row_pitch,      offsets_.data(), length(offsets, 0),
               segment_words, weights.data(), outputs,      row_class ? row_class_.data() : nullptr};
        require(length(weights, 2) == kBlock, "bitsum: weights are [blocks][words][16]");
        require(outputs >= 1 && blocks_ == (outputs - 1) / kBlock + 1,
                "bitsum: outputs does not fit the weights' blocks");
        require(rows >= 0 && row_pitch >= 0 && segment_words >= 1,
                "bitsum: rows, row_pitch >= 0 and segment_words >= 1");
        require(of_.segments >= 1 && length(weights, 1) % of_.segments == 0 &&
                    length(weights, 1) / of_.segments == segment_words,
                "bitsum: the weights' words are segments * segment_words");
        const std::int64_t words = length(input, 0);
        require(rows <= 1 || row_pitch <= words / (rows - 1), "bitsum: rows leave the input");
        for (std::int64_t s = 0; s < of_.segments && rows; ++s)
            require(of_.offsets[s] >= 0 && segment_words <= words &&
                        of_.offsets[s] <= words - segment_words - (rows - 1) * row_pitch,
                    "bitsum: a segment leaves the input");
        if (!row_class) return;
        require(length(*row_class, 0) == rows, "bitsum: row_class has a number a row");
        for (std::int64_t r = 0; r < rows; ++r)
            if (of_.row_class[r] >= classes_) classes_ = of_.row_class[r] + 1;
    }

    void to_bits(int level, const Numbers& most, const Array<const std::uint16_t, 1>& flip,
                 const Array<std::uint32_t, 2>& bits) const {
        check_table(most);
        require(length(flip, 0) == blocks_, "bitsum: flip has a word a block");
        check_result(length(bits, 0), length(bits, 1), (of_.outputs + 31) / 32);
        run(BITRELAX_AT(packed_level_of(level), bit_sums_to_bits),
            ToBits{most.data(), flip.data(), bits.data(), length(bits, 1)});
    }

    void to_sums(int level, const Numbers& base, const Array<std::int32_t, 2>& sums) const {
        check_table(base);
        check_result(length(sums, 0), length(sums, 1), of_.outputs);
        run(BITRELAX_AT(packed_level_of(level), bit_sums), ToSums{base.data(), sums.data(), length(sums, 1)});
    }

    void to_affine(int level, const Numbers& base, const Factors& scale, const Factors& bias,
                   const Array<float, 2>& out) const {
        check_table(base);
        require(length(scale, 0) == blocks_ * kBlock && length(bias, 0) == blocks_ * kBlock,
                "bitsum: scale and bias have 16 numbers a block");
        check_result(length(out, 0), length(out, 1), of_.outputs);
        run(BITRELAX_AT(packed_level_of(level), bit_sums_affine),
            ToAffine{base.data(), scale.data(), bias.data(), out.data(), length(out, 1)});
    }

   private:
    void check_table(const Numbers& table) const {
        require(length(table, 0) >= classes_ && length(table, 1) == blocks_ * kBlock,
                "bitsum: a table is [classes][16 * blocks]");
    }

    void check_result(std::int64_t rows, std::int64_t pitch, std::int64_t needed) const {
        require(rows == of_.rows && pitch >= needed, "bitsum: the result is [rows][pitch], the pitch holding a row");
    }

    template <class To>
    void run(void (*kernel)(const BitSums&, const To&), const To& to) const {
        const nb::gil_scoped_release unlocked;
        kernel(of_, to);
    }

    std::tuple<Array<const std::uint32_t, 1>, Array<const std::uint32_t, 3>> kept_;
    std::vector<std::int64_t> offsets_;  // copies: what is checked once must not change later
    std::vector<std::uint16_t> row_class_;
    BitSums of_;
    std::int64_t blocks_, classes_ = 1;
};

}  // namespace

void bind_bitsum(nb::module_& m) {
    nb::class_<Sums>(m, "BitSums")
        .def(nb::init<Array<const std::uint32_t, 1>, Array<const std::uint32_t, 3>, std::int64_t, std::int64_t,
                      std::int64_t, Array<const std::int64_t, 1>, std::int64_t,
                      std::optional<Array<const std::uint16_t, 1>>>(),
             "input"_a, "weights"_a, nb::kw_only(), "outputs"_a, "rows"_a, "row_pitch"_a, "offsets"_a,
             "segment_words"_a, "row_class"_a = nb::none())
        .def("to_bits", &Sums::to_bits, "level"_a, "most"_a, "flip"_a, "bits"_a)
        .def("to_sums", &Sums::to_sums, "level"_a, "base"_a, "sums"_a)
        .def("to_affine", &Sums::to_affine, "level"_a, "base"_a, "scale"_a, "bias"_a, "out"_a);
    m.def("best_packed_level", [] { return static_cast<int>(best_packed_level()); });
    m.def(
        "packed_limits",
        [](int level) {
            const PackedLimits limits = BITRELAX_AT(packed_level_of(level), packed_limits)();
            return std::tuple(limits.clock, limits.operations);
        },
        "level"_a, nb::call_guard<nb::gil_scoped_release>());
}
