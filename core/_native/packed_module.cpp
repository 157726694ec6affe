// Bindings of packed_engine.h: a program is built step by step, finished, and then run, without the interpreter's lock.
#include <cstring>
#include <initializer_list>
#include <optional>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include "packed_engine.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace bitrelax;

namespace {

template <class T>
using Flat = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Any = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<nb::c_contig, nb::device::cpu>;

template <class T>
Constant<T> copy(const Flat<T>& array) {
    return {array.data(), array.size()};
}

template <class T>
Constant<T> copy(const std::optional<Flat<T>>& array) {
    return array ? copy(*array) : Constant<T>{};
}

nb::dlpack::dtype type_of(Kind kind) {
    switch (kind) {
        case Kind::u8: return nb::dtype<std::uint8_t>();
        case Kind::f32: return nb::dtype<float>();
        case Kind::i32: return nb::dtype<std::int32_t>();
        default: return nb::dtype<std::uint32_t>();
    }
}

template <class Array>
std::int64_t examples(const Array& array, const Buffer& buffer, const char* name) {
    check(array.ndim() >= 1, std::string(name) + " needs the batch in front");
    check(array.dtype() == type_of(buffer.kind), std::string(name) + " has a wrong dtype");
    const auto images = static_cast<std::int64_t>(array.shape(0));
    const auto numbers = static_cast<std::int64_t>(array.size());  // divided: a product with a shape may overflow
    check(numbers % buffer.image() == 0 && images == numbers / buffer.image(),
          std::string(name) + " has a wrong shape");
    return images;
}

// The memory of a contiguous array through the buffer protocol: a microsecond less a call than an ndarray. The letter
// of its dtype costs another 0.2 us where the array is new, so it is asked of inputs only; sizes are always checked.
class View {
   public:
    View(nb::handle array, const Buffer& buffer, int flags) {
        if (PyObject_GetBuffer(array.ptr(), &view_, flags | PyBUF_ND)) throw nb::python_error();
        const char* format = buffer.kind == Kind::u8    ? "B"
                             : buffer.kind == Kind::f32 ? "f"
                             : buffer.kind == Kind::i32 ? "i"
                                                        : "I";
        const bool fits = view_.ndim >= 1 && (!(flags & PyBUF_FORMAT) || !std::strcmp(view_.format, format)) &&
                          view_.itemsize == size_of(buffer.kind) && view_.len % buffer.bytes() == 0 &&
                          view_.shape[0] == view_.len / buffer.bytes();  // a product might overflow
        if (!fits) {
            PyBuffer_Release(&view_);
            check(false, "an array of a wrong dtype or shape");
        }
    }
    View(const View&) = delete;
    ~View() { PyBuffer_Release(&view_); }
    void* data() const { return view_.buf; }
    std::int64_t images() const { return view_.shape[0]; }

   private:
    Py_buffer view_;
};

void run(const Program& program, const Any& x, const std::vector<Out>& outputs, double* seconds) {
    check(program.finished(), "it is not finished");
    const std::int64_t images = examples(x, program.input(), "the input");
    check(outputs.size() == program.outputs().size(), "a wrong number of outputs");
    std::vector<void*> data;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
        check(examples(outputs[i], program.buffer(program.outputs()[i]), "an output") == images,
              "outputs of another batch");
        data.push_back(outputs[i].data());
    }
    const nb::gil_scoped_release unlocked;
    program.run(x.data(), images, data.data(), seconds);
}

Epilogue epilogue(int after, const std::optional<Flat<std::int32_t>>& table,
                  const std::optional<Flat<std::uint16_t>>& flip, const std::optional<Flat<float>>& scale,
                  const std::optional<Flat<float>>& bias) {
    check(after >= 0 && after <= 2, "no such epilogue");
    return {static_cast<After>(after), copy(table), copy(flip), copy(scale), copy(bias)};
}

Kernel kernel(const std::vector<std::int64_t>& numbers) {
    check(numbers.size() == 7, "a kernel is height, width, stride, dilation, padding, groups, outputs");
    return {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]};
}

template <class T>
auto sums_over(void (*add)(Program&, std::int64_t, std::int64_t, Constant<T>, const Kernel&, Epilogue)) {
    return [add](Program& program, std::int64_t source, std::int64_t target, const Flat<T>& weights,
                 const std::vector<std::int64_t>& shape, int after, const std::optional<Flat<std::int32_t>>& table,
                 const std::optional<Flat<std::uint16_t>>& flip, const std::optional<Flat<float>>& scale,
                 const std::optional<Flat<float>>& bias) {
        add(program, source, target, copy(weights), kernel(shape), epilogue(after, table, flip, scale, bias));
    };
}

}  // namespace

void bind_packed(nb::module_& m) {
    auto program = nb::class_<Program>(m, "PackedProgram");
    program.def(
        "__init__",
        [](Program* self, int level, int threads) {
            check(level >= 0 && level <= static_cast<int>(best_packed_level()),
                  "a CPU level that this machine does not have");
            new (self) Program(static_cast<Level>(level), threads);
        },
        "level"_a, "threads"_a);
    program.def(
        "buffer",
        [](Program& self, int kind, std::int64_t height, std::int64_t width, std::int64_t channels, std::int64_t border,
           int place, bool planar) {
            check(kind >= 0 && kind <= 3 && place >= 0 && place <= 2, "no such kind or place of a buffer");
            return self.add_buffer(static_cast<Kind>(kind), height, width, channels, border,
                                   static_cast<Buffer::Place>(place), planar);
        },
        "kind"_a, "height"_a, "width"_a, "channels"_a, "border"_a, "place"_a, "planar"_a);
    program.def(
        "bit_sums",
        [](Program& self, std::int64_t source, std::int64_t target, const Flat<std::uint32_t>& weights,
           const std::vector<std::int64_t>& shape, const Flat<std::uint16_t>& row_class,
           const Flat<std::uint16_t>& column_class, int after, const std::optional<Flat<std::int32_t>>& table,
           const std::optional<Flat<std::uint16_t>>& flip, const std::optional<Flat<float>>& scale,
           const std::optional<Flat<float>>& bias) {
            add_bit_sums(self, source, target, copy(weights), kernel(shape), copy(row_class), copy(column_class),
                         epilogue(after, table, flip, scale, bias));
        },
        "source"_a, "target"_a, "weights"_a, "kernel"_a, "row_class"_a, "column_class"_a, "after"_a, "table"_a.none(),
        "flip"_a.none(), "scale"_a.none(), "bias"_a.none());
    const auto sums = [&](const char* name, auto over) {
        program.def(name, over, "source"_a, "target"_a, "weights"_a, "kernel"_a, "after"_a, "table"_a.none(),
                    "flip"_a.none(), "scale"_a.none(), "bias"_a.none());
    };
    sums("pixel_sums", sums_over<std::uint64_t>(add_pixel_sums));
    sums("sign_sums", sums_over<std::uint16_t>(add_sign_sums));
    sums("real_sums", sums_over<float>(add_real_sums));
    program.def(
        "binarize_u8",
        [](Program& self, std::int64_t source, std::int64_t target, const Flat<std::uint8_t>& at,
           const Flat<std::uint32_t>& possible) { add_binarize_u8(self, source, target, copy(at), copy(possible)); },
        "source"_a, "target"_a, "at"_a, "possible"_a);
    program.def(
        "binarize_f32",
        [](Program& self, std::int64_t source, std::int64_t target, const Flat<float>& at) {
            add_binarize_f32(self, source, target, copy(at));
        },
        "source"_a, "target"_a, "at"_a);
    program.def(
        "threshold",
        [](Program& self, std::int64_t source, std::int64_t target, const Flat<std::int32_t>& at,
           const Flat<std::uint32_t>& flip) { add_threshold(self, source, target, copy(at), copy(flip)); },
        "source"_a, "target"_a, "at"_a, "flip"_a);
    program.def(
        "affine",
        [](Program& self, std::int64_t source, std::int64_t target, const Flat<float>& scale, const Flat<float>& bias) {
            add_affine(self, source, target, copy(scale), copy(bias));
        },
        "source"_a, "target"_a, "scale"_a, "bias"_a);
    program.def("floats", &add_floats, "source"_a, "target"_a);
    program.def("relu", &add_relu, "source"_a, "target"_a);
    program.def("hard_tanh", &add_hard_tanh, "source"_a, "target"_a);
    program.def("add", &add_sum, "first"_a, "second"_a, "target"_a);
    program.def(
        "pool",
        [](Program& self, std::int64_t source, std::int64_t target, std::int64_t size, std::int64_t stride,
           std::int64_t padding, const std::optional<Flat<std::uint32_t>>& smallest) {
            add_pool(self, source, target, size, stride, padding, copy(smallest));
        },
        "source"_a, "target"_a, "size"_a, "stride"_a, "padding"_a, "smallest"_a.none());
    program.def("mean_pool", &add_mean_pool, "source"_a, "target"_a, "height"_a, "width"_a);
    program.def("arg_max", &add_arg_max, "source"_a, "target"_a);
    program.def("copy", &add_copy, "source"_a, "target"_a);
    program.def("concat", &add_concat, "sources"_a, "target"_a);
    program.def("regroup", &add_regroup, "source"_a, "target"_a, "groups"_a);
    program.def("finish", &Program::finish, "chunk"_a);
    program.def_prop_ro("chunk", &Program::chunk);
    program.def_prop_ro("arena_bytes", &Program::arena_bytes);
    program.def(
        "run",
        [](const Program& self, nb::handle x, nb::handle output) {
            check(self.finished(), "it is not finished");
            check(self.outputs().size() == 1, "a wrong number of outputs");
            const View from(x, self.input(), PyBUF_FORMAT), to(output, self.buffer(self.outputs()[0]), PyBUF_WRITABLE);
            check(from.images() == to.images(), "an output of another batch");
            void* data = to.data();
            const nb::gil_scoped_release unlocked;
            self.run(from.data(), from.images(), &data, nullptr);
        },
        "x"_a, "output"_a);
    program.def(
        "run_all",
        [](const Program& self, const Any& x, const std::vector<Out>& outputs) { run(self, x, outputs, nullptr); },
        "x"_a, "outputs"_a);
    program.def(
        "seconds",
        [](const Program& self, const Any& x, const std::vector<Out>& outputs) {
            std::vector<double> seconds(static_cast<std::size_t>(self.steps()), 0.0);
            run(self, x, outputs, seconds.data());
            return seconds;
        },
        "x"_a, "outputs"_a);
}
