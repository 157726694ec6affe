// Steps that sum: over bits directly in the padded image, over pixels and real values through rows gathered a few at a
// time.
#include <algorithm>
#include <cstring>

#include "packed_engine.h"

namespace bitrelax {
namespace {

constexpr std::int64_t kGroupRows = 64;                       // rows gathered together
constexpr std::int64_t kGatherBytes = std::int64_t{1} << 18;  // of such rows
constexpr std::int64_t kShort = 4;       // numbers that are copied at once where a row of taps is shorter
constexpr std::int64_t kManyPanels = 8;  // pairs of blocks from which threads share the outputs of a linear layer
constexpr double kWordsANanosecond = 30, kPixelsANanosecond = 150, kRealsANanosecond = 40;

std::int64_t blocks_of(std::int64_t outputs) { return (outputs + kBlock - 1) / kBlock; }

// Positions of a kernel on a side of an image.
std::int64_t positions(std::int64_t length, std::int64_t kernel, const Kernel& k) {
    const std::int64_t room = length + 2 * k.padding - k.dilation * (kernel - 1) - 1;
    check(room >= 0, "a kernel that does not fit its source");
    return room / k.stride + 1;
}

void check_kernel(const Kernel& k, const Buffer& source, const Buffer& target) {
    constexpr std::int64_t most = std::int64_t{1} << 28;
    for (const std::int64_t n : {k.height, k.width, k.stride, k.dilation, k.groups, k.outputs})
        check(n >= 1 && n <= most, "a number of a kernel is 1 to 2^28");
    check(k.padding >= 0 && k.padding <= (1 << 12), "a padding is 0 to 4096");
    check(source.channels % k.groups == 0 && k.outputs % k.groups == 0, "groups that do not divide the channels");
    product({k.height, k.width, source.channels});
    check(target.height == positions(source.height, k.height, k) &&
              target.width == positions(source.width, k.width, k) && target.channels == k.outputs,
          "a target that is not of the shape of the sums");
}

void check_epilogue(const Epilogue& e, const Kernel& k, const Buffer& target, Kind sums, std::int64_t tables) {
    const std::int64_t lanes = product({k.groups, blocks_of(k.outputs / k.groups), kBlock});
    const auto holds = [&](std::size_t size, std::int64_t count) { return static_cast<std::int64_t>(size) == count; };
    const bool bits = e.after == After::bits, affine = e.after == After::affine;
    check(bits || affine || e.after == After::sums, "no such epilogue");
    check(target.kind == (bits ? Kind::bits : affine ? Kind::f32 : sums), "a target of a wrong kind for a sum");
    check(holds(e.table.size(), product({tables, lanes})), "a table of sums of a wrong length");
    check(holds(e.flip.size(), bits ? lanes / kBlock : 0), "flips of a wrong length");
    check(holds(e.scale.size(), affine ? lanes : 0) && holds(e.bias.size(), affine ? lanes : 0),
          "a scale or a bias of a wrong length");
    check(!bits || k.groups == 1 || k.outputs / k.groups % 32 == 0, "groups that share a word of output bits");
}

// Words or numbers from the start of a pixel to the outputs of a group.
std::int64_t group_offset(const Buffer& target, std::int64_t group, std::int64_t outputs) {
    return target.kind == Kind::bits ? group * outputs / 32 : group * outputs;
}

class OverBits : public Step {
   public:
    OverBits(const Buffer& source, const Buffer& target, Constant<std::uint32_t> weights, const Kernel& kernel,
             Constant<std::uint16_t> row_class, Constant<std::uint16_t> column_class, Epilogue epilogue, Level level)
        : source_(source),
          target_(target),
          kernel_(kernel),
          weights_(std::move(weights)),
          row_class_(std::move(row_class)),
          column_class_(std::move(column_class)),
          after_(std::move(epilogue)),
          level_(level) {
        check(source.kind == Kind::bits, "sums over bits of what is no bits");
        check_kernel(kernel, source, target);
        check(kernel.padding <= source.border, "a padding beyond the border of the source");
        const std::int64_t channels = source.channels / kernel.groups;
        check(kernel.groups == 1 || channels % 32 == 0, "groups that share a word of input bits");
        outputs_ = kernel.outputs / kernel.groups;
        blocks_ = blocks_of(outputs_);
        words_ = (channels + 31) / 32;
        taps_ = product({kernel.height, kernel.width, words_});
        check(static_cast<std::int64_t>(weights_.size()) == product({kernel.groups, blocks_, taps_, kBlock}),
              "weights of a wrong length");
        classes_ = product({count(row_class_, target.height), column_classes_ = count(column_class_, target.width)});
        check_epilogue(after_, kernel, target, Kind::i32, classes_);
        lay_segments();
    }

    std::int64_t constants() const override { return static_cast<std::int64_t>(weights_.size() * sizeof(weights_[0])); }

    std::int64_t units(std::int64_t images) const override {
        if (!target_.vector()) return images * target_.height;
        return by_outputs() ? (blocks_ + 1) / 2 : images;
    }

    double work(std::int64_t images) const override {
        const double rows = static_cast<double>(images * target_.height * target_.width);
        return rows * static_cast<double>(kernel_.groups * blocks_ * kBlock) * static_cast<double>(taps_) /
               kWordsANanosecond;
    }

    void run(const Frame& frame, std::int64_t begin, std::int64_t end, int) const override {
        if (target_.vector() && by_outputs()) {
            call(frame, 0, 0, frame.images, 0, 2 * begin, std::min(2 * end, blocks_));
        } else if (target_.vector()) {
            for (std::int64_t group = 0; group < kernel_.groups; ++group)
                call(frame, begin, 0, end - begin, group, 0, blocks_);
        } else {
            for (std::int64_t unit = begin; unit < end; ++unit)
                for (std::int64_t group = 0; group < kernel_.groups; ++group)
                    call(frame, unit / target_.height, unit % target_.height, target_.width, group, 0, blocks_);
        }
    }

   private:
    // Number of classes; the last one's index is its largest.
    static std::int64_t count(const Constant<std::uint16_t>& classes, std::int64_t length) {
        check(static_cast<std::int64_t>(classes.size()) == length, "classes of a wrong length");
        return *std::max_element(classes.begin(), classes.end()) + std::int64_t{1};
    }

    bool by_outputs() const { return kernel_.groups == 1 && (blocks_ + 1) / 2 >= kManyPanels; }

    void lay_segments() {
        const std::int64_t pixel = source_.pixel(), row = source_.row();
        start_ = (source_.border - kernel_.padding) * (row + pixel);
        if (kernel_.dilation == 1 && kernel_.groups == 1 && kernel_.width * pixel == row) {
            offsets_ = {0};
            segment_ = taps_;
        } else if (kernel_.dilation == 1 && kernel_.groups == 1) {
            segment_ = kernel_.width * pixel;
            for (std::int64_t y = 0; y < kernel_.height; ++y) offsets_.push_back(y * row);
        } else {
            segment_ = words_;
            for (std::int64_t y = 0; y < kernel_.height; ++y)
                for (std::int64_t x = 0; x < kernel_.width; ++x)
                    offsets_.push_back(kernel_.dilation * (y * row + x * pixel));
        }
    }

    // The sums of one row of positions (or of the vectors of `rows` images) for some blocks of one group.
    void call(const Frame& frame, std::int64_t image, std::int64_t y, std::int64_t rows, std::int64_t group,
              std::int64_t first, std::int64_t last) const {
        const bool vector = target_.vector();
        const std::int64_t lanes = blocks_ * kBlock, lane = first * kBlock;
        const BitSums sums{frame.at<const std::uint32_t>(reads[0]) + image * source_.image() + start_ +
                               y * kernel_.stride * source_.row() + group * words_,
                           rows,
                           vector ? source_.image() : kernel_.stride * source_.pixel(),
                           offsets_.data(),
                           static_cast<std::int64_t>(offsets_.size()),
                           segment_,
                           weights_.data() + (group * blocks_ + first) * taps_ * kBlock,
                           std::min(outputs_ - lane, (last - first) * kBlock),
                           vector || column_classes_ == 1 ? nullptr : column_class_.data()};
        const std::int64_t out = image * target_.image() + target_.origin() + y * target_.row() +
                                 group_offset(target_, group, outputs_) +
                                 (target_.kind == Kind::bits ? lane / 32 : lane);
        const std::int64_t pitch = vector ? target_.image() : target_.pixel();
        const std::int32_t* table = after_.table.data() + lane +
                                    (group * classes_ + row_class_[static_cast<std::size_t>(y)] * column_classes_ +
                                     (vector ? column_class_[0] : 0)) *
                                        lanes;
        const std::int64_t own = group * lanes + lane;
        if (after_.after == After::bits)
            BITRELAX_AT(level_, bit_sums_to_bits)(
                sums, {table, after_.flip.data() + own / kBlock, frame.at<std::uint32_t>(writes) + out, pitch});
        else if (after_.after == After::sums)
            BITRELAX_AT(level_, bit_sums)(sums, {table, frame.at<std::int32_t>(writes) + out, pitch});
        else
            BITRELAX_AT(level_, bit_sums_affine)(sums, {table, after_.scale.data() + own, after_.bias.data() + own,
                                                        frame.at<float>(writes) + out, pitch});
    }

    Buffer source_, target_;
    Kernel kernel_;
    Constant<std::uint32_t> weights_;
    Constant<std::uint16_t> row_class_, column_class_;
    Epilogue after_;
    Level level_;
    std::int64_t outputs_, blocks_, words_, taps_, classes_, column_classes_, segment_, start_;
    std::vector<std::int64_t> offsets_;
};

// A position of the target, counted through its rows and the images of a chunk.
struct Position {
    std::int64_t image, y, x, height, width;
    Position(std::int64_t row, const Buffer& target) : height(target.height), width(target.width) {
        image = row / (height * width);
        y = row / width % height;
        x = row % width;
    }
    void operator++() {
        if (++x < width) return;
        x = 0;
        if (++y < height) return;
        y = 0;
        ++image;
    }
};

template <class Number, class Weight>
class OverRows : public Step {
   public:
    using Compute = void (*const PackedKernels::*)(const Panel&);

    OverRows(const Buffer& source, const Buffer& target, Constant<Weight> weights, std::int64_t weights_a_step,
             std::int64_t taps_a_step, const Kernel& kernel, Epilogue epilogue,
             void (*PackedKernels::*compute)(const Panel&), double speed)
        : source_(source),
          target_(target),
          kernel_(kernel),
          weights_(std::move(weights)),
          after_(std::move(epilogue)),
          compute_(compute),
          speed_(speed) {
        constexpr bool pixels = sizeof(Number) == 1;
        check(source.kind == (pixels ? Kind::u8 : Kind::f32), "sums over values of another kind");
        check_kernel(kernel, source, target);
        channels_ = source.channels / kernel.groups;
        outputs_ = kernel.outputs / kernel.groups;
        blocks_ = blocks_of(outputs_);
        taken_ = product({kernel.height, kernel.width, channels_});
        steps_ = (taken_ + taps_a_step - 1) / taps_a_step;
        taps_ = steps_ * taps_a_step;
        panel_ = steps_ * weights_a_step;
        check(static_cast<std::int64_t>(weights_.size()) == product({kernel.groups, blocks_, panel_}),
              "weights of a wrong length");
        check(pixels || after_.after != After::bits, "real sums that become bits");
        check_epilogue(after_, kernel, target, pixels ? Kind::i32 : Kind::f32, after_.after == After::bits ? 1 : 0);
        const std::int64_t row_bytes = taps_ * static_cast<std::int64_t>(sizeof(Number));
        group_rows_ = std::max<std::int64_t>(1, std::min(kGroupRows, kGatherBytes / row_bytes));
        const bool whole = kernel.height == source.height && kernel.width == source.width && target.vector();
        const bool pointwise = kernel.height == 1 && kernel.width == 1 && kernel.stride == 1;
        direct_ = (whole || pointwise) && kernel.padding == 0 && kernel.groups == 1 && source.plain() &&
                  taken_ == taps_ && (kernel.dilation == 1 || pointwise);
        contiguous_ = kernel.dilation == 1 && (source.planar || kernel.groups == 1);
        for (std::int64_t plane = 0; plane < (source.planar ? channels_ : 1); ++plane)
            for (std::int64_t y = 0; y < kernel.height; ++y)
                lines_.push_back(plane * source.item() + y * kernel.dilation * source.row());
    }

    std::int64_t scratch() const override {
        return direct_ ? 0 : (group_rows_ * taps_ + kShort) * static_cast<std::int64_t>(sizeof(Number));
    }

    std::int64_t constants() const override { return static_cast<std::int64_t>(weights_.size() * sizeof(weights_[0])); }

    std::int64_t units(std::int64_t images) const override {
        return by_outputs(images) ? (blocks_ + 1) / 2 : (rows(images) + group_rows_ - 1) / group_rows_;
    }

    double work(std::int64_t images) const override {
        return static_cast<double>(rows(images)) * static_cast<double>(kernel_.groups * blocks_ * kBlock) *
               static_cast<double>(taps_) / speed_;
    }

    void run(const Frame& frame, std::int64_t begin, std::int64_t end, int worker) const override {
        const std::int64_t all = rows(frame.images);
        if (by_outputs(frame.images)) {
            for (std::int64_t row = 0; row < all; row += group_rows_)
                compute(frame, worker, row, std::min(group_rows_, all - row), 2 * begin, std::min(2 * end, blocks_));
            return;
        }
        for (std::int64_t unit = begin; unit < end; ++unit)
            compute(frame, worker, unit * group_rows_, std::min(group_rows_, all - unit * group_rows_), 0, blocks_);
    }

   private:
    std::int64_t rows(std::int64_t images) const { return images * target_.height * target_.width; }
    bool by_outputs(std::int64_t images) const {
        return direct_ && (blocks_ + 1) / 2 >= kManyPanels && rows(images) <= 2 * group_rows_;
    }

    void compute(const Frame& frame, int worker, std::int64_t row, std::int64_t count, std::int64_t first,
                 std::int64_t last) const {
        char* out[kGroupRows];
        const std::int64_t size = size_of(target_.kind);
        for (std::int64_t group = 0; group < kernel_.groups; ++group) {
            const std::int64_t lane = first * kBlock;
            char* first_out = frame.at<char>(writes) + size * (group_offset(target_, group, outputs_) +
                                                               (target_.kind == Kind::bits ? lane / 32 : lane));
            Position at(row, target_);
            for (std::int64_t r = 0; r < count; ++r, ++at)
                out[r] = first_out + size * (at.image * target_.image() + target_.origin() + at.y * target_.row() +
                                             at.x * target_.pixel());
            const Number* source =
                direct_ ? frame.at<const Number>(reads[0]) + row * taken_ : gather(frame, worker, row, count, group);
            const std::int64_t own = (group * blocks_ + first) * kBlock;
            const Panel panel{source,
                              count,
                              taps_,
                              taps_,
                              weights_.data() + (group * blocks_ + first) * panel_,
                              last - first,
                              std::min(outputs_ - lane, (last - first) * kBlock),
                              after_.after,
                              after_.table.data() + (after_.table.empty() ? 0 : own),
                              after_.flip.data() + (after_.flip.empty() ? 0 : own / kBlock),
                              after_.scale.data() + (after_.scale.empty() ? 0 : own),
                              after_.bias.data() + (after_.bias.empty() ? 0 : own),
                              out};
            (frame.kernels->*compute_)(panel);
        }
    }

    const Number* gather(const Frame& frame, int worker, std::int64_t row, std::int64_t count,
                         std::int64_t group) const {
        auto* rows = reinterpret_cast<Number*>((*frame.scratch)[static_cast<std::size_t>(worker)].data());
        Position at(row, target_);
        Number* to = rows;
        for (std::int64_t r = 0; r < count; ++r, ++at, to += taps_) {
            const Number* image = frame.at<const Number>(reads[0]) + at.image * source_.image();
            gather_taps(image, group * channels_ * source_.item(), at.y * kernel_.stride - kernel_.padding,
                        at.x * kernel_.stride - kernel_.padding, to);
            for (std::int64_t tap = taken_; tap < taps_; ++tap) to[tap] = Number{0};
        }
        return rows;
    }

    // Taps in the order of the weights: rows, columns, channels; of planar images channels, rows, columns.
    void gather_taps(const Number* image, std::int64_t first, std::int64_t top, std::int64_t left, Number* to) const {
        const std::int64_t run = source_.planar ? 1 : channels_, line = kernel_.width * run;
        const bool rows_inside = top >= 0 && top + kernel_.dilation * (kernel_.height - 1) < source_.height;
        if (rows_inside && contiguous_ && left >= 0 && left + kernel_.width <= source_.width) {
            const std::int64_t from = first + top * source_.row() + left * run;
            if (line <= kShort && from + lines_.back() + kShort <= source_.image())
                for (const std::int64_t offset : lines_) {
                    std::memcpy(to, image + from + offset,
                                kShort * sizeof(Number));  // the next line writes over the rest
                    to += line;
                }
            else
                for (const std::int64_t offset : lines_) {
                    std::memcpy(to, image + from + offset, static_cast<std::size_t>(line) * sizeof(Number));
                    to += line;
                }
            return;
        }
        for (std::size_t i = 0; i < lines_.size(); ++i, to += line) {
            const std::int64_t y = top + static_cast<std::int64_t>(i) % kernel_.height * kernel_.dilation;
            if (y < 0 || y >= source_.height)
                std::fill(to, to + line, Number{0});
            else
                gather_row(image + first + top * source_.row() + lines_[i], left, run, to);
        }
    }

    // Taps of one row, some of which may lie outside, where 0 is.
    void gather_row(const Number* line, std::int64_t left, std::int64_t run, Number* to) const {
        for (std::int64_t kx = 0; kx < kernel_.width; ++kx, to += run) {
            const std::int64_t x = left + kx * kernel_.dilation;
            if (x < 0 || x >= source_.width)
                std::fill(to, to + run, Number{0});
            else
                std::copy(line + x * source_.pixel(), line + x * source_.pixel() + run, to);
        }
    }

    Buffer source_, target_;
    Kernel kernel_;
    Constant<Weight> weights_;
    Epilogue after_;
    void (*PackedKernels::*compute_)(const Panel&);
    double speed_;
    std::int64_t channels_, outputs_, blocks_, taken_, steps_, taps_, panel_, group_rows_;
    bool direct_, contiguous_;
    std::vector<std::int64_t> lines_;  // where each row of taps begins, from the first
};

void add_step(Program& program, std::unique_ptr<Step> step, std::int64_t source, std::int64_t target) {
    step->reads = {source};
    step->writes = target;
    program.add(std::move(step));
}

}  // namespace

void add_bit_sums(Program& program, std::int64_t source, std::int64_t target, Constant<std::uint32_t> weights,
                  const Kernel& kernel, Constant<std::uint16_t> row_class, Constant<std::uint16_t> column_class,
                  Epilogue epilogue) {
    add_step(
        program,
        std::make_unique<OverBits>(program.buffer(source), program.buffer(target), std::move(weights), kernel,
                                   std::move(row_class), std::move(column_class), std::move(epilogue), program.level()),
        source, target);
}

void add_pixel_sums(Program& program, std::int64_t source, std::int64_t target, Constant<std::uint64_t> weights,
                    const Kernel& kernel, Epilogue epilogue) {
    add_step(program,
             std::make_unique<OverRows<std::uint8_t, std::uint64_t>>(
                 program.buffer(source), program.buffer(target), std::move(weights), 1, 4, kernel, std::move(epilogue),
                 &PackedKernels::panel_u8, kPixelsANanosecond),
             source, target);
}

void add_sign_sums(Program& program, std::int64_t source, std::int64_t target, Constant<std::uint16_t> weights,
                   const Kernel& kernel, Epilogue epilogue) {
    add_step(program,
             std::make_unique<OverRows<float, std::uint16_t>>(program.buffer(source), program.buffer(target),
                                                              std::move(weights), 1, 1, kernel, std::move(epilogue),
                                                              &PackedKernels::panel_signs, kRealsANanosecond),
             source, target);
}

void add_real_sums(Program& program, std::int64_t source, std::int64_t target, Constant<float> weights,
                   const Kernel& kernel, Epilogue epilogue) {
    add_step(program,
             std::make_unique<OverRows<float, float>>(program.buffer(source), program.buffer(target),
                                                      std::move(weights), 16, 1, kernel, std::move(epilogue),
                                                      &PackedKernels::panel_reals, kRealsANanosecond),
             source, target);
}

}  // namespace bitrelax
