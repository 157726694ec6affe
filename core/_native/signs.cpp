// Searches over sign vectors: one-flip descent, tabu, enumeration in Gray code. Compiled once a CPU level.
#include "signs.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace {

using bitrelax::SignRows;

constexpr int LANES = 8;
constexpr double LOWEST = -std::numeric_limits<double>::infinity();
typedef double Values __attribute__((vector_size(64), aligned(8), may_alias));  // loads of any alignment
typedef std::int64_t Places __attribute__((vector_size(64)));

// Noise number `at` of `seed`: splitmix64 (Steele, Lea and Flood 2014).
inline std::uint64_t noise(std::uint64_t seed, std::uint64_t at) {
    std::uint64_t z = seed + (at + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// The upper (lower) half of a word of noise, scaled to 0 .. range - 1.
inline std::int64_t upper(std::uint64_t word, std::int64_t range) {
    return static_cast<std::int64_t>(((word >> 32) * static_cast<std::uint64_t>(range)) >> 32);
}
inline std::int64_t lower(std::uint64_t word, std::int64_t range) { return upper(word << 32, range); }

// The largest gain of those not barred and the first place that has it, and the largest of all.
struct Largest {
    double free = LOWEST, any = LOWEST;
    std::int64_t place = -1;

    // Takes gains[from..to) in; barred is 0 or -infinity.
    void scan(const double* gains, const double* barred, std::int64_t from, std::int64_t to) {
        Values most = LOWEST - Values{}, most_of_all = most;
        Places places = Places{} - 1, here = {0, 1, 2, 3, 4, 5, 6, 7};
        here += from;
        std::int64_t j = from;
        for (; j + LANES <= to; j += LANES, here += LANES) {
            const Values gain = *reinterpret_cast<const Values*>(gains + j);
            const Values candidate = gain + *reinterpret_cast<const Values*>(barred + j);
            const Places better = candidate > most;
            most = better ? candidate : most;
            places = better ? here : places;
            most_of_all = gain > most_of_all ? gain : most_of_all;
        }
        Largest found;
        for (int l = 0; l < LANES; ++l) {
            if (most[l] > found.free || (most[l] == found.free && places[l] < found.place))
                found.free = most[l], found.place = places[l];
            any = std::max(any, most_of_all[l]);
        }
        offer(found.free, found.place);
        for (; j < to; ++j) offer(gains[j] + barred[j], j), any = std::max(any, gains[j]);
    }

   private:
    void offer(double gain, std::int64_t where) {
        if (gain > free) free = gain, place = where;
    }
};

// Flips x_i: gains and signs afterwards. `signs` are numbers here, so that a dense row is one vector loop.
inline void flip(const SignRows<double>& rows, double* __restrict signs, double* __restrict gains, std::int64_t i) {
    const double twice = 2 * signs[i];
    if (rows.dense) {
        const double* __restrict row = rows.dense + i * rows.n;
        for (std::int64_t j = 0; j < rows.n; ++j) gains[j] -= row[j] * (twice * signs[j]);
    } else {
        for (std::int32_t at = rows.starts[i]; at < rows.starts[i + 1]; ++at) {
            const std::int32_t j = rows.columns[at];
            gains[j] -= rows.values[at] * (twice * signs[j]);
        }
    }
    gains[i] = -gains[i];
    signs[i] = -signs[i];
}

// Vertices that may not be flipped for a while, by when that ends: lists in a ring, linked through the vertices.
class Bars {
   public:
    Bars(std::int64_t n, std::int64_t longest) : first_(longest + 1, -1), next_(n) {}

    void add(std::int32_t i, std::int64_t until) {
        std::int32_t& head = first_[until % first_.size()];
        next_[i] = head;
        head = i;
    }

    template <class Release>
    void expire(std::int64_t now, Release release) {
        std::int32_t& head = first_[now % first_.size()];
        for (std::int32_t i = head; i >= 0; i = next_[i]) release(i);
        head = -1;
    }

   private:
    std::vector<std::int32_t> first_, next_;
};

// Vertices by gain, a small integer: one bucket a gain, in no order; free and barred ones apart.
class Buckets {
   public:
    struct Vertex {
        std::int32_t gain, place;  // place: within its bucket
        std::int8_t sign, barred;
    };
    std::vector<Vertex> vertices;

    Buckets(std::int64_t n, const std::int8_t* signs, const std::int32_t* gains, std::int32_t range)
        : vertices(n), range_(range) {
        for (int barred = 0; barred < 2; ++barred) of_[barred].resize(2 * range + 1), top_[barred] = -range;
        for (std::int32_t i = 0; i < n; ++i) {
            vertices[i] = {gains[i], 0, signs[i], 0};
            enter(i);
        }
    }

    // The vertices of the largest gain; none where there are none at all.
    const std::vector<std::int32_t>& best(int barred) {
        std::int32_t& top = top_[barred];
        while (top > -range_ && of_[barred][top + range_].empty()) --top;
        return of_[barred][top + range_];
    }

    void move(std::int32_t i, std::int32_t gain) {
        leave(i);
        vertices[i].gain = gain;
        enter(i);
    }

    void bar(std::int32_t i, std::int8_t barred) {
        leave(i);
        vertices[i].barred = barred;
        enter(i);
    }

   private:
    void enter(std::int32_t i) {
        Vertex& v = vertices[i];
        auto& bucket = of_[v.barred][v.gain + range_];
        v.place = static_cast<std::int32_t>(bucket.size());
        bucket.push_back(i);
        top_[v.barred] = std::max(top_[v.barred], v.gain);
    }

    void leave(std::int32_t i) {  // the last of its bucket takes its place
        const Vertex& v = vertices[i];
        auto& bucket = of_[v.barred][v.gain + range_];
        const std::int32_t last = bucket.back();
        bucket[v.place] = last;
        vertices[last].place = v.place;
        bucket.pop_back();
    }

    std::int32_t range_, top_[2];
    std::vector<std::vector<std::int32_t>> of_[2];
};

inline void flip(const SignRows<std::int32_t>& rows, Buckets& buckets, std::int32_t i) {
    const std::int32_t twice = 2 * buckets.vertices[i].sign;
    for (std::int32_t at = rows.starts[i]; at < rows.starts[i + 1]; ++at) {
        const std::int32_t j = rows.columns[at];
        const Buckets::Vertex& v = buckets.vertices[j];
        buckets.move(j, v.gain - rows.values[at] * (v.sign > 0 ? twice : -twice));
    }
    buckets.move(i, -buckets.vertices[i].gain);
    buckets.vertices[i].sign = -buckets.vertices[i].sign;
}

}  // namespace

namespace bitrelax::BITRELAX_LEVEL {

void sign_descent(const SignDescent& a) {
    const std::int64_t n = a.rows.n;
    std::vector<double> signs(n);
    const std::vector<double> barred(n, 0.0);
    for (std::int64_t start = 0; start < a.count; ++start) {
        std::int8_t* x = a.signs + start * n;
        double* gains = a.gains + start * n;
        std::copy(x, x + n, signs.begin());
        for (;;) {
            Largest largest;
            largest.scan(gains, barred.data(), 0, n);
            if (!(largest.any > a.least)) break;
            flip(a.rows, signs.data(), gains, largest.place);
        }
        for (std::int64_t j = 0; j < n; ++j) x[j] = static_cast<std::int8_t>(signs[j]);
    }
}

void sign_tabu(const SignTabu<double>& a) {
    const std::int64_t n = a.rows.n;
    std::vector<double> signs(a.signs, a.signs + n), barred(n, 0.0);
    Bars bars(n, a.tenure + a.spread);
    double lowered = 0, most = 0;
    for (std::int64_t t = 0; t < a.flips; ++t) {
        const std::uint64_t word = noise(a.seed, t);
        const std::int64_t from = upper(word, n);
        bars.expire(t, [&](std::int32_t i) { barred[i] = 0.0; });
        Largest largest;
        largest.scan(a.gains, barred.data(), from, n);
        largest.scan(a.gains, barred.data(), 0, from);
        std::int64_t i = largest.place;
        if (largest.any > largest.free && lowered + largest.any > most) {
            const auto is_it = [&](double gain) { return gain == largest.any; };
            const double* found = std::find_if(a.gains + from, a.gains + n, is_it);
            if (found == a.gains + n) found = std::find_if(a.gains, a.gains + from, is_it);
            i = found - a.gains;
        }
        lowered += a.gains[i];
        flip(a.rows, signs.data(), a.gains, i);
        const std::int64_t length = a.tenure + lower(word, a.spread);
        if (barred[i] == 0.0 && length > 0) barred[i] = LOWEST, bars.add(static_cast<std::int32_t>(i), t + 1 + length);
        if (lowered > most) {
            most = lowered;
            for (std::int64_t j = 0; j < n; ++j) a.signs[j] = static_cast<std::int8_t>(signs[j]);
        }
    }
}

void sign_tabu_buckets(const SignTabu<std::int32_t>& a) {
    const std::int64_t n = a.rows.n;
    Buckets buckets(n, a.signs, a.gains, a.range);
    Bars bars(n, a.tenure + a.spread);
    std::int64_t lowered = 0, most = 0;
    for (std::int64_t t = 0; t < a.flips; ++t) {
        bars.expire(t, [&](std::int32_t i) { buckets.bar(i, 0); });
        const std::uint64_t word = noise(a.seed, t);
        const auto &free = buckets.best(0), &barred = buckets.best(1);
        const auto gain = [&](const auto& bucket) { return buckets.vertices[bucket[0]].gain; };
        const bool aspires = !barred.empty() && gain(barred) > gain(free) && lowered + gain(barred) > most;
        const auto& chosen = aspires ? barred : free;
        const std::int32_t i = chosen[upper(word, chosen.size())];
        lowered += buckets.vertices[i].gain;
        flip(a.rows, buckets, i);
        const std::int64_t length = a.tenure + lower(word, a.spread);
        if (!aspires && length > 0) buckets.bar(i, 1), bars.add(i, t + 1 + length);
        if (lowered > most) {
            most = lowered;
            for (std::int64_t j = 0; j < n; ++j) a.signs[j] = buckets.vertices[j].sign;
        }
    }
}

// The last digits run in Gray code; before each run of them the fields are computed anew, so that rounding does not
// pile up over 2^(n - 1) flips.
void sign_enumerate(const SignEnumeration& a) {
    constexpr std::int64_t DIGITS = 8, WIDTH = 32;
    const std::int64_t n = a.rows.n, free = n - 1, low = std::min(free, DIGITS);
    std::vector<double> rows(n * WIDTH, 0.0), x(WIDTH, 1.0), best(WIDTH, 1.0);
    for (std::int64_t i = 0; i < n; ++i) std::copy(a.rows.dense + i * n, a.rows.dense + (i + 1) * n, &rows[i * WIDTH]);
    double least = std::numeric_limits<double>::infinity();
    for (std::int64_t high = 0; high < (std::int64_t{1} << (free - low)); ++high) {
        if (high) {
            const int digit = __builtin_ctzll(high);
            x[low + digit] = -x[low + digit];
        }
        double fields[WIDTH] = {}, value = 0;
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t j = 0; j < WIDTH; ++j) fields[j] += rows[i * WIDTH + j] * x[i];
        for (std::int64_t j = 0; j < n; ++j) value += x[j] * fields[j];
        for (std::int64_t code = 1;; ++code) {
            if (value < least) least = value, best = x;
            if (code == (std::int64_t{1} << low)) break;
            const std::int64_t i = __builtin_ctzll(code);
            value -= 4 * x[i] * fields[i];
            const double twice = 2 * x[i];
            const double* row = &rows[i * WIDTH];
            for (std::int64_t j = 0; j < WIDTH; ++j) fields[j] -= twice * row[j];
            x[i] = -x[i];
        }
    }
    for (std::int64_t j = 0; j < n; ++j) a.signs[j] = static_cast<std::int8_t>(best[j]);
}

}  // namespace bitrelax::BITRELAX_LEVEL
