// Steps that sum nothing: packing, thresholds, affine maps, pooling, and copies into another layout.
#include <algorithm>
#include <cstring>

#include "packed_engine.h"

namespace bitrelax {
namespace {

constexpr double kItemsANanosecond = 4;  // a cautious estimate for what moves memory

bool same_shape(const Buffer& a, const Buffer& b) {
    return a.height == b.height && a.width == b.width && a.channels == b.channels;
}

template <class T>
void check_length(const Constant<T>& constant, std::int64_t length) {
    check(static_cast<std::int64_t>(constant.size()) == length, "a constant of a wrong length");
}

void check_regular(const Buffer& b) { check(!b.planar, "a step that cannot read channels first"); }

// A step whose units are the rows of its target: work(frame, image, y) makes one.
template <class Work>
class RowByRow : public Step {
   public:
    RowByRow(const Buffer& target, Work work, double items)
        : height_(target.height), work_(std::move(work)), items_(items) {}
    std::int64_t units(std::int64_t images) const override { return images * height_; }
    double work(std::int64_t images) const override { return static_cast<double>(images) * items_ / kItemsANanosecond; }
    void run(const Frame& frame, std::int64_t begin, std::int64_t end, int) const override {
        for (std::int64_t unit = begin; unit < end; ++unit) work_(frame, unit / height_, unit % height_);
    }

   private:
    std::int64_t height_;
    Work work_;
    double items_;
};

template <class Work>
void add_rows(Program& program, std::vector<std::int64_t> sources, std::int64_t target, Work work) {
    double items = static_cast<double>(program.buffer(target).image());
    for (const std::int64_t source : sources) {
        check_regular(program.buffer(source));
        items += static_cast<double>(program.buffer(source).image());
    }
    auto step = std::make_unique<RowByRow<Work>>(program.buffer(target), std::move(work), items);
    step->reads = std::move(sources);
    step->writes = target;
    program.add(std::move(step));
}

template <class T>
T* row_at(const Frame& frame, std::int64_t id, const Buffer& b, std::int64_t image, std::int64_t y) {
    return frame.at<T>(id) + image * b.image() + b.origin() + y * b.row();
}

// work(kernels, source row, target row) of values of one shape.
template <class From, class To, class Work>
void add_map(Program& program, std::int64_t source, std::int64_t target, Work work) {
    const Buffer s = program.buffer(source), t = program.buffer(target);
    check(same_shape(s, t), "a target of another shape than the source");
    add_rows(program, {source}, target, [=](const Frame& frame, std::int64_t image, std::int64_t y) {
        work(*frame.kernels, row_at<const From>(frame, source, s, image, y), row_at<To>(frame, target, t, image, y));
    });
}

void check_kinds(const Program& program, std::int64_t source, Kind from, std::int64_t target, Kind to) {
    check(program.buffer(source).kind == from && program.buffer(target).kind == to, "buffers of a wrong kind");
}

}  // namespace

void add_binarize_u8(Program& program, std::int64_t source, std::int64_t target, Constant<std::uint8_t> at,
                     Constant<std::uint32_t> possible) {
    check_kinds(program, source, Kind::u8, target, Kind::bits);
    const Buffer& s = program.buffer(source);
    const std::int64_t width = s.width, channels = s.channels;
    check_length(at, channels);
    check_length(possible, (channels + 31) / 32);
    add_map<std::uint8_t, std::uint32_t>(program, source, target,
                                         [=, at = std::move(at), possible = std::move(possible)](
                                             const PackedKernels& k, const std::uint8_t* x, std::uint32_t* out) {
                                             k.binarize_u8(x, width, channels, at.data(), possible.data(), out);
                                         });
}

void add_binarize_f32(Program& program, std::int64_t source, std::int64_t target, Constant<float> at) {
    check_kinds(program, source, Kind::f32, target, Kind::bits);
    const Buffer& s = program.buffer(source);
    const std::int64_t width = s.width, channels = s.channels;
    check_length(at, channels);
    add_map<float, std::uint32_t>(program, source, target,
                                  [=, at = std::move(at)](const PackedKernels& k, const float* x, std::uint32_t* out) {
                                      k.binarize_f32(x, width, channels, at.data(), out);
                                  });
}

void add_threshold(Program& program, std::int64_t source, std::int64_t target, Constant<std::int32_t> at,
                   Constant<std::uint32_t> flip) {
    check_kinds(program, source, Kind::i32, target, Kind::bits);
    const Buffer& s = program.buffer(source);
    const std::int64_t width = s.width, channels = s.channels;
    check_length(at, channels);
    check_length(flip, (channels + 31) / 32);
    add_map<std::int32_t, std::uint32_t>(program, source, target,
                                         [=, at = std::move(at), flip = std::move(flip)](
                                             const PackedKernels& k, const std::int32_t* x, std::uint32_t* out) {
                                             k.threshold(x, width, channels, at.data(), flip.data(), out);
                                         });
}

void add_affine(Program& program, std::int64_t source, std::int64_t target, Constant<float> scale,
                Constant<float> bias) {
    const Buffer& s = program.buffer(source);
    const std::int64_t width = s.width, channels = s.channels;
    check(program.buffer(target).kind == Kind::f32 && (s.kind == Kind::i32 || s.kind == Kind::f32),
          "buffers of a wrong kind");
    check_length(scale, channels);
    check_length(bias, channels);
    if (s.kind == Kind::i32)
        add_map<std::int32_t, float>(program, source, target,
                                     [=, scale = std::move(scale), bias = std::move(bias)](
                                         const PackedKernels& k, const std::int32_t* x, float* out) {
                                         k.affine_i32(x, width, channels, scale.data(), bias.data(), out);
                                     });
    else
        add_map<float, float>(
            program, source, target,
            [=, scale = std::move(scale), bias = std::move(bias)](const PackedKernels& k, const float* x, float* out) {
                k.affine_f32(x, width, channels, scale.data(), bias.data(), out);
            });
}

void add_floats(Program& program, std::int64_t source, std::int64_t target) {
    const Buffer& s = program.buffer(source);
    const std::int64_t width = s.width, channels = s.channels, count = s.width * s.channels;
    check(program.buffer(target).kind == Kind::f32, "buffers of a wrong kind");
    if (s.kind == Kind::bits)
        add_map<std::uint32_t, float>(program, source, target,
                                      [=](const PackedKernels& k, const std::uint32_t* x, float* out) {
                                          k.floats_of_bits(x, width, channels, out);
                                      });
    else if (s.kind == Kind::u8)
        add_map<std::uint8_t, float>(
            program, source, target,
            [=](const PackedKernels& k, const std::uint8_t* x, float* out) { k.floats_of_u8(x, count, out); });
    else {
        check(s.kind == Kind::i32, "buffers of a wrong kind");
        add_map<std::int32_t, float>(
            program, source, target,
            [=](const PackedKernels& k, const std::int32_t* x, float* out) { k.floats_of_i32(x, count, out); });
    }
}

void add_relu(Program& program, std::int64_t source, std::int64_t target) {
    check_kinds(program, source, Kind::f32, target, Kind::f32);
    const std::int64_t count = program.buffer(source).row();
    add_map<float, float>(program, source, target,
                          [=](const PackedKernels& k, const float* x, float* out) { k.relu(x, count, out); });
}

void add_hard_tanh(Program& program, std::int64_t source, std::int64_t target) {
    check_kinds(program, source, Kind::f32, target, Kind::f32);
    const std::int64_t count = program.buffer(source).row();
    add_map<float, float>(program, source, target,
                          [=](const PackedKernels& k, const float* x, float* out) { k.hard_tanh(x, count, out); });
}

void add_sum(Program& program, std::int64_t first, std::int64_t second, std::int64_t target) {
    const Buffer a = program.buffer(first), b = program.buffer(second), t = program.buffer(target);
    check(same_shape(a, b) && same_shape(a, t), "a sum of values of other shapes");
    check(a.kind == b.kind && a.kind == t.kind && (a.kind == Kind::i32 || a.kind == Kind::f32),
          "buffers of a wrong kind");
    const std::int64_t count = a.row();
    add_rows(program, {first, second}, target, [=](const Frame& frame, std::int64_t image, std::int64_t y) {
        if (t.kind == Kind::i32)
            frame.kernels->add_i32(row_at<const std::int32_t>(frame, first, a, image, y),
                                   row_at<const std::int32_t>(frame, second, b, image, y), count,
                                   row_at<std::int32_t>(frame, target, t, image, y));
        else
            frame.kernels->add_f32(row_at<const float>(frame, first, a, image, y),
                                   row_at<const float>(frame, second, b, image, y), count,
                                   row_at<float>(frame, target, t, image, y));
    });
}

void add_pool(Program& program, std::int64_t source, std::int64_t target, std::int64_t size, std::int64_t stride,
              std::int64_t padding, Constant<std::uint32_t> smallest) {
    const Buffer s = program.buffer(source), t = program.buffer(target);
    check(s.kind == t.kind && s.kind != Kind::u8, "buffers of a wrong kind");
    check(size >= 1 && size <= (1 << 12) && stride >= 1 && stride <= (1 << 20),
          "a window of 1 to 4096, a stride of 1 to 2^20");
    check(padding >= 0 && 2 * padding <= size, "a padding beyond half of the window");
    const auto pooled = [&](std::int64_t length) {
        check(length + 2 * padding >= size, "a window that does not fit its source");
        return (length + 2 * padding - size) / stride + 1;
    };
    check(t.height == pooled(s.height) && t.width == pooled(s.width) && t.channels == s.channels,
          "a target of another shape");
    check_length(smallest, s.kind == Kind::bits ? s.items() : 0);
    const auto kernel = s.kind == Kind::bits  ? &PackedKernels::pool_bits
                        : s.kind == Kind::i32 ? &PackedKernels::pool_i32
                                              : &PackedKernels::pool_f32;
    add_rows(program, {source}, target,
             [=, smallest = std::move(smallest)](const Frame& frame, std::int64_t image, std::int64_t y) {
                 const std::int64_t top = y * stride - padding, first = std::max<std::int64_t>(top, 0),
                                    last = std::min(top + size, s.height);
                 (frame.kernels->*kernel)({row_at<const std::uint32_t>(frame, source, s, image, first), last - first,
                                           s.row(), s.width, s.items(), t.width, size, stride, padding, smallest.data(),
                                           row_at<std::uint32_t>(frame, target, t, image, y)});
             });
}

void add_mean_pool(Program& program, std::int64_t source, std::int64_t target, std::int64_t height,
                   std::int64_t width) {
    check_kinds(program, source, Kind::f32, target, Kind::f32);
    const Buffer s = program.buffer(source), t = program.buffer(target);
    check(height >= 1 && height <= (1 << 28) && width >= 1 && width <= (1 << 28), "a window of 1 to 2^28");
    check(t.height == (s.height + height - 1) / height && t.width == (s.width + width - 1) / width &&
              t.channels == s.channels,
          "a target of another shape");
    add_rows(program, {source}, target, [=](const Frame& frame, std::int64_t image, std::int64_t y) {
        const std::int64_t first = y * height, last = std::min(first + height, s.height);
        frame.kernels->pool_mean({row_at<const float>(frame, source, s, image, first), last - first, s.row(), s.width,
                                  s.items(), t.width, width, width, 0, nullptr,
                                  row_at<float>(frame, target, t, image, y)});
    });
}

namespace {

// nan counts as the largest, as in NumPy.
template <class T>
std::int64_t first_largest(const T* x, std::int64_t count) {
    std::int64_t best = 0;
    for (std::int64_t i = 1; i < count && x[best] == x[best]; ++i)
        if (x[i] > x[best] || x[i] != x[i]) best = i;
    return best;
}

template <class T>
void add_arg_max_of(Program& program, std::int64_t source, std::int64_t target) {
    const Buffer s = program.buffer(source), t = program.buffer(target);
    add_rows(program, {source}, target, [=](const Frame& frame, std::int64_t image, std::int64_t) {
        const T* x = row_at<const T>(frame, source, s, image, 0);
        *row_at<std::int32_t>(frame, target, t, image, 0) = static_cast<std::int32_t>(first_largest(x, s.channels));
    });
}

// Bits of one row of pixels appended after those that a vector of words has.
void append_bits(std::uint32_t* words, std::int64_t used, const std::uint32_t* pixel, std::int64_t channels) {
    for (std::int64_t c = 0; c < channels; c += 32, used += 32) {
        const std::uint32_t word = pixel[c / 32];
        const std::int64_t shift = used % 32, count = std::min<std::int64_t>(32, channels - c);
        if (shift == 0)
            words[used / 32] = word;
        else {
            words[used / 32] |= word << shift;
            if (shift + count > 32) words[used / 32 + 1] = word >> (32 - shift);
        }
    }
}

// `count` bits from bit `first` on, into whole words.
void slice_bits(const std::uint32_t* pixel, std::int64_t first, std::int64_t count, std::uint32_t* to) {
    for (std::int64_t c = 0; c < count; c += 32) {
        const std::int64_t at = first + c, left = std::min<std::int64_t>(32, count - c), shift = at % 32;
        std::uint32_t word = pixel[at / 32] >> shift;
        if (shift && shift + left > 32) word |= pixel[at / 32 + 1] << (32 - shift);
        to[c / 32] = left == 32 ? word : word & ((1u << left) - 1);
    }
}

}  // namespace

void add_arg_max(Program& program, std::int64_t source, std::int64_t target) {
    const Buffer &s = program.buffer(source), &t = program.buffer(target);
    check(s.vector() && t.vector() && t.channels == 1 && t.kind == Kind::i32, "the largest of one number a channel");
    check(s.kind == Kind::f32 || s.kind == Kind::i32, "buffers of a wrong kind");
    s.kind == Kind::f32 ? add_arg_max_of<float>(program, source, target)
                        : add_arg_max_of<std::int32_t>(program, source, target);
}

void add_copy(Program& program, std::int64_t source, std::int64_t target) {
    const Buffer s = program.buffer(source), t = program.buffer(target);
    check(s.kind == t.kind, "buffers of a wrong kind");
    check(product({s.height, s.width, s.channels}) == product({t.height, t.width, t.channels}),
          "a target of another size");
    if (same_shape(s, t)) {
        auto copy = [=](const Frame& frame, std::int64_t image, std::int64_t y) {
            const std::int64_t size = size_of(s.kind), items = s.items();
            const char* from = frame.at<const char>(source) + size * (image * s.image() + s.origin() + y * s.row());
            char* to = frame.at<char>(target) + size * (image * t.image() + t.origin() + y * t.row());
            if (!s.planar)
                std::memcpy(to, from, static_cast<std::size_t>(size * s.width * items));
            else
                for (std::int64_t x = 0; x < s.width; ++x)
                    for (std::int64_t c = 0; c < items; ++c, to += size)
                        std::memcpy(to, from + size * (x + c * s.item()), static_cast<std::size_t>(size));
        };
        auto step = std::make_unique<RowByRow<decltype(copy)>>(t, copy, static_cast<double>(s.image() + t.image()));
        step->reads = {source};
        step->writes = target;
        program.add(std::move(step));
        return;
    }
    check(t.vector(), "a copy into another shape that is not flat");
    const bool bitwise = s.kind == Kind::bits && s.channels % 32 != 0;
    add_rows(program, {source}, target, [=](const Frame& frame, std::int64_t image, std::int64_t) {
        const std::int64_t size = size_of(s.kind), line = s.width * s.items();
        char* to = frame.at<char>(target) + size * (image * t.image() + t.origin());
        std::int64_t used = 0;
        for (std::int64_t y = 0; y < s.height; ++y) {
            const char* from = frame.at<const char>(source) + size * (image * s.image() + s.origin() + y * s.row());
            if (!bitwise)
                std::memcpy(to + y * size * line, from, static_cast<std::size_t>(size * line));
            else
                for (std::int64_t x = 0; x < s.width; ++x, used += s.channels)
                    append_bits(reinterpret_cast<std::uint32_t*>(to), used,
                                reinterpret_cast<const std::uint32_t*>(from) + x * s.items(), s.channels);
        }
    });
}

void add_concat(Program& program, const std::vector<std::int64_t>& sources, std::int64_t target) {
    const Buffer t = program.buffer(target);
    check(!sources.empty() && sources.size() <= (1u << 20), "a concatenation of 1 to 2^20 values");
    std::vector<Buffer> parts;
    std::int64_t channels = 0;
    for (const std::int64_t id : sources) {
        const Buffer& s = program.buffer(id);
        check(s.kind == t.kind && s.height == t.height && s.width == t.width,
              "values of another kind or shape side by side");
        check(t.kind != Kind::bits || channels % 32 == 0, "bits are joined at whole words");
        channels += s.channels;
        parts.push_back(s);
    }
    check(channels == t.channels, "a target of another number of channels");
    add_rows(program, sources, target, [=](const Frame& frame, std::int64_t image, std::int64_t y) {
        const std::int64_t size = size_of(t.kind);
        char* out = frame.at<char>(target) + size * (image * t.image() + t.origin() + y * t.row());
        for (std::size_t i = 0; i < parts.size(); ++i) {
            const Buffer& s = parts[i];
            const char* from = frame.at<const char>(sources[i]) + size * (image * s.image() + s.origin() + y * s.row());
            for (std::int64_t x = 0; x < t.width; ++x)
                std::memcpy(out + size * x * t.items(), from + size * x * s.items(),
                            static_cast<std::size_t>(size * s.items()));
            out += size * s.items();
        }
    });
}

void add_regroup(Program& program, std::int64_t source, std::int64_t target, std::int64_t groups) {
    check_kinds(program, source, Kind::bits, target, Kind::bits);
    const Buffer s = program.buffer(source), t = program.buffer(target);
    check(groups >= 1 && s.channels % groups == 0, "groups that do not divide the channels");
    const std::int64_t own = s.channels / groups, words = (own + 31) / 32;
    check(s.height == t.height && s.width == t.width && t.channels == product({groups, words, 32}),
          "a target of another shape");
    add_rows(program, {source}, target, [=](const Frame& frame, std::int64_t image, std::int64_t y) {
        const auto* from = row_at<const std::uint32_t>(frame, source, s, image, y);
        auto* to = row_at<std::uint32_t>(frame, target, t, image, y);
        for (std::int64_t x = 0; x < s.width; ++x, from += s.items())
            for (std::int64_t group = 0; group < groups; ++group, to += words) slice_bits(from, group * own, own, to);
    });
}

}  // namespace bitrelax
