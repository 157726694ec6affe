#include "packed_engine.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>
#include <stdexcept>

#include "packed_floats.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace bitrelax {
namespace {

constexpr std::int64_t kLargestSide = std::int64_t{1} << 28;   // of a buffer: a flattened image is one
constexpr std::int64_t kLargestBytes = std::int64_t{1} << 40;  // where products stop
constexpr std::int64_t kLargestArena = std::int64_t{1} << 32;  // activations of one example
constexpr std::int64_t kChunkBytes = std::int64_t{3} << 17;  // activations of a chunk: well within a second-level cache
constexpr std::int64_t kLargestChunkBytes = std::int64_t{1} << 22;
constexpr std::int64_t kLargestChunk = 256;  // examples
constexpr std::int64_t kAlign = 64;
constexpr double kWorthThreads = 50e3;  // nanoseconds of work: a step below is done before a thread is awake
constexpr std::int64_t kPartsAThread = 4;

const PackedKernels& kernels_of(Level level) {
#ifdef BITRELAX_X86
    if (level == Level::avx512) return avx512::packed_kernels();
    if (level == Level::avx2) return avx2::packed_kernels();
#endif
    (void)level;
    return portable::packed_kernels();
}

#ifdef __SANITIZE_ADDRESS__
constexpr std::int64_t kGap = kAlign;  // between buffers, where no step may reach
#else
constexpr std::int64_t kGap = 0;
#endif

std::int64_t aligned(std::int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign + kGap; }

}  // namespace

void check(bool holds, const std::string& what) {
    if (!holds) throw std::invalid_argument("packed program: " + what);
}

std::int64_t product(std::initializer_list<std::int64_t> factors) {
    std::int64_t result = 1;
    for (const std::int64_t factor : factors) {
        check(factor >= 0, "a length below 0");
        if (__builtin_mul_overflow(result, factor, &result) || result > kLargestBytes)
            throw std::length_error("packed program: a size beyond 2^40");
    }
    return result;
}

struct Program::Arena {
    char* memory = nullptr;
    std::vector<char*> bases;
    std::vector<std::vector<char>> scratch;
    ~Arena() {
#ifdef __SANITIZE_ADDRESS__
        __asan_unpoison_memory_region(memory, static_cast<std::size_t>(bytes));
#endif
        ::operator delete[](memory, std::align_val_t{kAlign});
    }
    std::int64_t bytes = 0;
};

Program::Program(Level level, int threads) : level_(level), threads_(threads) {
    check(threads >= 1 && threads <= 1024, "threads must be 1 to 1024");
    check(static_cast<int>(level) >= 0 && level <= best_packed_level(), "a CPU level that this machine does not have");
}

Program::~Program() { delete spare_.load(); }

std::int64_t Program::add_buffer(Kind kind, std::int64_t height, std::int64_t width, std::int64_t channels,
                                 std::int64_t border, Buffer::Place place, bool planar) {
    check(!finished(), "it is finished");
    check(static_cast<int>(kind) >= 0 && static_cast<int>(kind) <= 3, "no such kind of buffer");
    for (const std::int64_t side : {height, width, channels})
        check(side >= 1 && side <= kLargestSide, "a side of a buffer is 1 to 2^28");
    check(border >= 0 && border <= (1 << 12), "a border is 0 to 4096");
    check(border == 0 || (kind == Kind::bits && place == Buffer::Place::arena), "only bits in the arena have a border");
    check(!planar || place == Buffer::Place::input, "only inputs have their channels first");
    product({height + 2 * border, width + 2 * border, channels, 4});
    Buffer buffer{kind, height, width, channels, border, place, planar};
    const auto id = static_cast<std::int64_t>(buffers_.size());
    if (place == Buffer::Place::input) {
        check(input_ < 0, "two inputs");
        check(kind == Kind::u8 || kind == Kind::f32, "an input is u8 or f32");
        input_ = id;
    } else if (place == Buffer::Place::output) {
        buffer.index = static_cast<std::int64_t>(outputs_.size());
        outputs_.push_back(id);
    }
    buffers_.push_back(buffer);
    return id;
}

const Buffer& Program::buffer(std::int64_t id) const {
    check(id >= 0 && id < static_cast<std::int64_t>(buffers_.size()), "no such buffer");
    return buffers_[static_cast<std::size_t>(id)];
}

const Buffer& Program::input() const { return buffer(input_); }

void Program::add(std::unique_ptr<Step> step) {
    check(!finished(), "it is finished");
    const std::int64_t now = steps() + 1;
    for (const std::int64_t id : step->reads) {
        buffer(id);
        Buffer& read = buffers_[static_cast<std::size_t>(id)];
        check(read.first > 0 || read.place == Buffer::Place::input, "a step reads what no step has written");
        check(id != step->writes, "a step reads what it writes");
        read.last = now;
    }
    buffer(step->writes);
    Buffer& written = buffers_[static_cast<std::size_t>(step->writes)];
    check(written.place != Buffer::Place::input, "a step writes to the input");
    check(written.first == 0, "two steps write to one buffer");
    written.first = written.last = now;
    scratch_ = std::max(scratch_, step->scratch());
    constants_ += step->constants();
    steps_.push_back(std::move(step));
}

// First fit by lifetimes; what has a border keeps its place, for the border is written once.
void Program::place_buffers() {
    struct Held {
        std::int64_t offset, bytes, last;
    };
    std::vector<Held> held;  // by offset
    std::vector<std::int64_t> order;
    for (std::size_t id = 0; id < buffers_.size(); ++id)
        if (buffers_[id].place == Buffer::Place::arena && buffers_[id].first > 0)
            order.push_back(static_cast<std::int64_t>(id));
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
        return buffers_[static_cast<std::size_t>(a)].first < buffers_[static_cast<std::size_t>(b)].first;
    });
    std::int64_t permanent = 0;
    for (const std::int64_t id : order) {
        Buffer& b = buffers_[static_cast<std::size_t>(id)];
        if (b.border == 0) continue;
        b.offset = permanent;
        permanent += aligned(b.bytes());
        if (permanent > kLargestArena)
            throw std::length_error("packed program: activations of one example beyond 4 GiB");
    }
    arena_bytes_ = permanent;
    for (const std::int64_t id : order) {
        Buffer& b = buffers_[static_cast<std::size_t>(id)];
        if (b.border > 0) continue;
        held.erase(std::remove_if(held.begin(), held.end(), [&](const Held& h) { return h.last < b.first; }),
                   held.end());
        std::int64_t offset = permanent;
        auto place = held.begin();
        for (; place != held.end() && place->offset < offset + aligned(b.bytes()); ++place)
            offset = std::max(offset, place->offset + place->bytes);
        held.insert(place, {offset, aligned(b.bytes()), b.last});
        b.offset = offset;
        arena_bytes_ = std::max(arena_bytes_, offset + aligned(b.bytes()));
        if (arena_bytes_ > kLargestArena)
            throw std::length_error("packed program: activations of one example beyond 4 GiB");
    }
}

void Program::finish(std::int64_t chunk) {
    check(!finished(), "it is finished");
    check(input_ >= 0, "no input");
    check(!outputs_.empty(), "no output");
    check(chunk >= 0 && chunk <= (1 << 20), "a chunk is 0 to 2^20 examples");
    for (const std::int64_t id : outputs_) check(buffer(id).first > 0, "no step writes the output");
    place_buffers();
    // where weights fill the caches anyway, activations may as well: fewer chunks read them less often
    const std::int64_t room = std::clamp(constants_ / 4, kChunkBytes, kLargestChunkBytes);
    const std::int64_t fits = std::max<std::int64_t>(1, room / std::max<std::int64_t>(1, arena_bytes_));
    chunk_ = chunk ? chunk : std::min(kLargestChunk, fits);
    if (threads_ > 1) workers_ = Workers::of(threads_);
}

std::unique_ptr<Program::Arena> Program::new_arena() const {
    auto arena = std::make_unique<Arena>();
    const std::int64_t bytes = std::max<std::int64_t>(product({arena_bytes_, chunk_}), 1);
    arena->memory = static_cast<char*>(::operator new[](static_cast<std::size_t>(bytes), std::align_val_t{kAlign}));
    arena->bytes = bytes;
#ifdef __SANITIZE_ADDRESS__
    __asan_poison_memory_region(arena->memory, static_cast<std::size_t>(bytes));
#endif
    arena->bases.resize(buffers_.size());
    arena->scratch.resize(static_cast<std::size_t>(threads_));
    for (auto& scratch : arena->scratch) scratch.resize(static_cast<std::size_t>(scratch_));
    for (std::size_t id = 0; id < buffers_.size(); ++id) {
        const Buffer& b = buffers_[id];
        if (b.place != Buffer::Place::arena) continue;
        arena->bases[id] = arena->memory + b.offset * chunk_;
#ifdef __SANITIZE_ADDRESS__
        if (b.first > 0) __asan_unpoison_memory_region(arena->bases[id], static_cast<std::size_t>(b.bytes() * chunk_));
#endif
        if (b.first > 0 && b.border > 0) std::memset(arena->bases[id], 0, static_cast<std::size_t>(b.bytes() * chunk_));
    }
    return arena;
}

void Program::run(const void* input, std::int64_t images, void* const* outputs, double* seconds) const {
    check(finished(), "it is not finished");
    const StandardFloats standard;
    std::unique_ptr<Arena> arena(spare_.exchange(nullptr));  // a concurrent call makes another
    if (!arena) arena = new_arena();
    const std::int64_t chunks = (images + chunk_ - 1) / chunk_;
    for (std::int64_t k = 0; k < chunks; ++k) {
        const std::int64_t first = images / chunks * k + std::min(k, images % chunks);  // of equal size, but for one
        const std::int64_t last = first + images / chunks + (k < images % chunks);
        for (std::size_t id = 0; id < buffers_.size(); ++id) {
            const Buffer& b = buffers_[id];
            if (b.place == Buffer::Place::input)  // steps read it only
                arena->bases[id] = const_cast<char*>(static_cast<const char*>(input)) + first * b.bytes();
            else if (b.place == Buffer::Place::output)
                arena->bases[id] = static_cast<char*>(outputs[b.index]) + first * b.bytes();
        }
        run_chunk(*arena, last - first, seconds);
    }
    Arena* none = nullptr;
    if (spare_.compare_exchange_strong(none, arena.get())) arena.release();
}

void Program::run_chunk(Arena& arena, std::int64_t images, double* seconds) const {
    using Clock = std::chrono::steady_clock;
    const Frame frame{images, &arena.bases, &kernels_of(level_), &arena.scratch};
    auto before = seconds ? Clock::now() : Clock::time_point{};
    for (std::size_t s = 0; s < steps_.size(); ++s) {
        const Step& step = *steps_[s];
        const std::int64_t units = step.units(images);
        bool shared = false;
        if (workers_ && units > 1 && step.work(images) > kWorthThreads) {
            const std::int64_t parts = std::min(units, kPartsAThread * threads_);
            shared = workers_->run(parts, [&](std::int64_t part, int worker) {
                step.run(frame, units * part / parts, units * (part + 1) / parts, worker);
            });
        }
        if (!shared) step.run(frame, 0, units, 0);
        if (seconds) {
            const auto now = Clock::now();
            seconds[s] += std::chrono::duration<double>(now - before).count();
            before = now;
        }
    }
}

}  // namespace bitrelax
