// The bit kernels of one level against bit-by-bit counting, in buffers of exactly the sizes named; for other CPUs under
// an emulator, and for sanitizers. Prints the number of cases, or the first that differs.
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "bitsum.h"

namespace {

using namespace bitrelax;

std::mt19937 random_words(5);

int within(int least, int most) {
    return least + static_cast<int>(random_words() % static_cast<unsigned>(most - least + 1));
}

template <class Number>
std::vector<Number> drawn(std::size_t size, int least, int most) {
    std::vector<Number> numbers(size);
    for (Number& number : numbers) number = static_cast<Number>(within(least, most));
    return numbers;
}

int differing_bits(std::uint32_t a, std::uint32_t b) {
    int count = 0;
    for (std::uint32_t left = a ^ b; left; left >>= 1) count += left & 1u;
    return count;
}

struct Case {
    int rows = within(1, 9), outputs = within(1, 70), segments = within(1, 3), words = within(1, 45), gap = within(0, 3);
    int classes = within(1, 3), pitch = within(0, words), blocks = (outputs + 15) / 16, all = segments * words;
    std::vector<std::int64_t> offsets;
    std::vector<std::uint32_t> input, weights;
    std::vector<std::uint16_t> row_class = drawn<std::uint16_t>(rows, 0, classes - 1);
    std::vector<std::uint16_t> flip = drawn<std::uint16_t>(blocks, 0, 65535);
    std::vector<std::int32_t> table = drawn<std::int32_t>(classes * blocks * 16, -1, all * 32);
    std::vector<float> scale = drawn<float>(blocks * 16, -50, 50), bias = drawn<float>(blocks * 16, -50, 50);

    Case() {
        for (int s = 0; s < segments; ++s) offsets.push_back(s * (words + gap));
        input.resize((rows - 1) * pitch + (segments - 1) * (words + gap) + words);
        weights.resize(blocks * all * 16);
        const bool ends = within(0, 3) == 0;  // every bit differs: the largest counts
        for (auto& word : input) word = ends ? 0xffffffffu : random_words();
        for (auto& word : weights) word = ends ? 0u : random_words();
        for (int c = outputs; c < blocks * 16; ++c) {
            flip[c / 16] &= static_cast<std::uint16_t>(~(1u << c % 16));
            for (int k = 0; k < classes; ++k) table[k * blocks * 16 + c] = -1;
        }
    }

    BitSums sums() const {
        return {input.data(), rows, pitch, offsets.data(), segments, words, weights.data(), outputs, row_class.data()};
    }

    int count(int row, int channel) const {
        int count = 0;
        for (int k = 0; k < all; ++k)
            count += differing_bits(input[row * pitch + offsets[k / words] + k % words],
                                    weights[(channel / 16 * all + k) * 16 + channel % 16]);
        return count;
    }

    std::int32_t entry(int row, int channel) const { return table[row_class[row] * blocks * 16 + channel]; }

    bool holds() const {
        const int width = (outputs + 31) / 32;
        std::vector<std::uint32_t> bits(rows * width, 0x5a5a5a5au);
        std::vector<std::int32_t> numbers(rows * outputs);
        std::vector<float> reals(rows * outputs);
        BITRELAX_LEVEL::bit_sums_to_bits(sums(), {table.data(), flip.data(), bits.data(), width});
        BITRELAX_LEVEL::bit_sums(sums(), {table.data(), numbers.data(), outputs});
        BITRELAX_LEVEL::bit_sums_affine(sums(), {table.data(), scale.data(), bias.data(), reals.data(), outputs});
        for (int r = 0; r < rows; ++r)
            for (int c = 0; c < width * 32; ++c) {
                const bool bit = bits[r * width + c / 32] >> c % 32 & 1u;
                if (c >= outputs) {
                    if (bit) return false;
                    continue;
                }
                const int pc = count(r, c), s = entry(r, c) - 2 * pc;
                if (bit != ((pc <= entry(r, c)) != (flip[c / 16] >> c % 16 & 1))) return false;
                if (numbers[r * outputs + c] != s) return false;
                const float product = static_cast<float>(s) * scale[c];
                if (reals[r * outputs + c] != product + bias[c]) return false;
            }
        return true;
    }
};

}  // namespace

int main() {
    constexpr int cases = 400;
    for (int i = 0; i < cases; ++i) {
        const Case one;
        if (!one.holds()) {
            std::printf("case %d differs: %d rows, %d outputs, %d x %d words\n", i, one.rows, one.outputs, one.segments,
                        one.words);
            return 1;
        }
    }
    std::printf("%d cases\n", cases);
}
