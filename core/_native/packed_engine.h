// A packed network as a program: buffers, steps over them, and one call that runs all steps on a batch.
//
// Whoever builds a program is not trusted. Buffers know their sizes, steps take buffers and constants whose lengths are
// known, and each step checks when it is added that it can touch nothing else; it throws std::invalid_argument or
// std::length_error where it could. Offsets are never taken from outside: they are computed from shapes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bitsum.h"
#include "packed.h"
#include "packed_constants.h"
#include "packed_threads.h"

namespace bitrelax {

enum class Kind : int { bits = 0, i32 = 1, u8 = 2, f32 = 3 };

constexpr std::int64_t size_of(Kind kind) { return kind == Kind::u8 ? 1 : 4; }

// One value of every example of a chunk: channels last, bits with a border of 0 that no step writes. Raw images
// of several channels have them first: `planar`.
struct Buffer {
    enum class Place : int { input, output, arena };
    Kind kind;
    std::int64_t height, width, channels, border;
    Place place;
    bool planar;
    std::int64_t index = 0;            // which output
    std::int64_t first = 0, last = 0;  // steps between which it lives
    std::int64_t offset = 0;           // in the arena

    std::int64_t items() const { return kind == Kind::bits ? (channels + 31) / 32 : channels; }  // of a pixel
    std::int64_t row() const { return planar ? width : (width + 2 * border) * items(); }
    std::int64_t pixel() const { return planar ? 1 : items(); }
    std::int64_t item() const { return planar ? height * width : 1; }
    std::int64_t image() const { return (height + 2 * border) * (width + 2 * border) * items(); }
    std::int64_t bytes() const { return image() * size_of(kind); }
    std::int64_t origin() const { return border * row() + border * pixel(); }
    bool plain() const { return border == 0 && !planar; }
    bool vector() const { return height == 1 && width == 1; }
};

// Where the buffers of a chunk of `images` examples are, and the kernels of the level.
struct Frame {
    std::int64_t images;
    const std::vector<char*>* bases;
    const PackedKernels* kernels;
    std::vector<std::vector<char>>* scratch;  // one a worker

    template <class T>
    T* at(std::int64_t buffer) const {
        return reinterpret_cast<T*>((*bases)[static_cast<std::size_t>(buffer)]);
    }
};

// One step: independent units of work, so that threads may share them.
class Step {
   public:
    virtual ~Step() = default;
    virtual std::int64_t units(std::int64_t images) const = 0;
    virtual double work(std::int64_t images) const = 0;  // estimated nanoseconds
    virtual void run(const Frame& frame, std::int64_t begin, std::int64_t end, int worker) const = 0;
    virtual std::int64_t scratch() const { return 0; }    // bytes a worker
    virtual std::int64_t constants() const { return 0; }  // bytes of weights that each chunk reads again

    std::vector<std::int64_t> reads;
    std::int64_t writes = -1;
};

class Program {
   public:
    Program(Level level, int threads);

    std::int64_t add_buffer(Kind kind, std::int64_t height, std::int64_t width, std::int64_t channels,
                            std::int64_t border, Buffer::Place place, bool planar);
    const Buffer& buffer(std::int64_t id) const;
    void add(std::unique_ptr<Step> step);
    // Lays out the arena; no step may be added afterwards. `chunk`: examples at a time, 0 for the engine's choice.
    void finish(std::int64_t chunk);

    // Runs all steps on `images` examples; outputs in the order in which their buffers were added. seconds: null, or
    // where the time of each step is added.
    void run(const void* input, std::int64_t images, void* const* outputs, double* seconds) const;

    const Buffer& input() const;
    const std::vector<std::int64_t>& outputs() const { return outputs_; }
    std::int64_t steps() const { return static_cast<std::int64_t>(steps_.size()); }
    std::int64_t chunk() const { return chunk_; }
    std::int64_t arena_bytes() const { return arena_bytes_ * chunk_; }
    Level level() const { return level_; }
    bool finished() const { return chunk_ > 0; }

   private:
    struct Arena;
    void place_buffers();
    void run_chunk(Arena& arena, std::int64_t images, double* seconds) const;
    std::unique_ptr<Arena> new_arena() const;

    Level level_;
    int threads_;
    std::vector<Buffer> buffers_;
    std::vector<std::unique_ptr<Step>> steps_;
    std::vector<std::int64_t> outputs_;
    std::int64_t input_ = -1, chunk_ = 0, arena_bytes_ = 0, scratch_ = 0, constants_ = 0;
    std::shared_ptr<Workers> workers_;
    mutable std::atomic<Arena*> spare_{nullptr};

   public:
    ~Program();
};

// What follows a sum: constants of the epilogue; which are there says which it is.
struct Epilogue {
    After after = After::sums;
    Constant<std::int32_t> table;  // sums over bits: base or most, [row classes][column classes][16 blocks]; else at
    Constant<std::uint16_t> flip;
    Constant<float> scale, bias;
};

// Geometry of a convolution; a linear layer's kernel is the whole image.
struct Kernel {
    std::int64_t height, width, stride, dilation, padding, groups, outputs;
};

// Weights of groups one after the other; channels of blocks of 16.
void add_bit_sums(Program&, std::int64_t source, std::int64_t target, Constant<std::uint32_t> weights, const Kernel&,
                  Constant<std::uint16_t> row_class, Constant<std::uint16_t> column_class, Epilogue);
void add_pixel_sums(Program&, std::int64_t source, std::int64_t target, Constant<std::uint64_t> weights, const Kernel&,
                    Epilogue);
void add_sign_sums(Program&, std::int64_t source, std::int64_t target, Constant<std::uint16_t> weights, const Kernel&,
                   Epilogue);
void add_real_sums(Program&, std::int64_t source, std::int64_t target, Constant<float> weights, const Kernel&,
                   Epilogue);

void add_binarize_u8(Program&, std::int64_t source, std::int64_t target, Constant<std::uint8_t> at,
                     Constant<std::uint32_t> possible);
void add_binarize_f32(Program&, std::int64_t source, std::int64_t target, Constant<float> at);
void add_threshold(Program&, std::int64_t source, std::int64_t target, Constant<std::int32_t> at,
                   Constant<std::uint32_t> flip);
void add_affine(Program&, std::int64_t source, std::int64_t target, Constant<float> scale, Constant<float> bias);
void add_floats(Program&, std::int64_t source, std::int64_t target);
void add_relu(Program&, std::int64_t source, std::int64_t target);
void add_hard_tanh(Program&, std::int64_t source, std::int64_t target);
void add_sum(Program&, std::int64_t first, std::int64_t second, std::int64_t target);
void add_pool(Program&, std::int64_t source, std::int64_t target, std::int64_t size, std::int64_t stride,
              std::int64_t padding, Constant<std::uint32_t> smallest);
void add_mean_pool(Program&, std::int64_t source, std::int64_t target, std::int64_t height, std::int64_t width);
void add_arg_max(Program&, std::int64_t source, std::int64_t target);
// The same numbers in another layout: flattened, side by side with others, with a border, by groups of whole words.
void add_copy(Program&, std::int64_t source, std::int64_t target);
void add_concat(Program&, const std::vector<std::int64_t>& sources, std::int64_t target);
void add_regroup(Program&, std::int64_t source, std::int64_t target, std::int64_t groups);

void check(bool holds, const std::string& what);            // std::invalid_argument
std::int64_t product(std::initializer_list<std::int64_t>);  // of numbers >= 0; std::length_error beyond 2^40

}  // namespace bitrelax
