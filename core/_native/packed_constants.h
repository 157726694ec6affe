// Constants of packed networks: copies that nobody else can change, equal ones of all programs held once.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace bitrelax {

// The living arrays of one type by a hash of their bytes. A file may name one array in thousands of nodes: without this
// each of them would hold its own copy.
template <class T>
class Living {
   public:
    using Array = std::shared_ptr<const std::vector<T>>;

    Array equal_to(const T* data, std::size_t size) {
        const std::uint64_t key = hash(data, size * sizeof(T));
        const std::lock_guard lock(mutex_);
        for (auto [at, end] = arrays_.equal_range(key); at != end; ++at) {
            const Array found = at->second.lock();
            if (found && found->size() == size && !std::memcmp(found->data(), data, size * sizeof(T))) return found;
        }
        auto made = std::make_shared<const std::vector<T>>(data, data + size);
        if (arrays_.size() >= most_) forget_the_dead();
        arrays_.emplace(key, made);
        return made;
    }

   private:
    void forget_the_dead() {
        for (auto at = arrays_.begin(); at != arrays_.end();) at = at->second.expired() ? arrays_.erase(at) : ++at;
        most_ = std::max<std::size_t>(256, 2 * arrays_.size());
    }

    static std::uint64_t hash(const void* data, std::size_t bytes) {
        const auto* from = static_cast<const char*>(data);
        std::uint64_t state = bytes;
        for (std::size_t first = 0; first < bytes; first += sizeof state) {
            std::uint64_t word = 0;
            std::memcpy(&word, from + first, std::min(sizeof word, bytes - first));
            state = (state ^ word) * 0x9e3779b97f4a7c15u;
            state ^= state >> 32;
        }
        return state;
    }

    std::mutex mutex_;
    std::unordered_multimap<std::uint64_t, std::weak_ptr<const std::vector<T>>> arrays_;
    std::size_t most_ = 256;
};

template <class T>
class Constant {
   public:
    Constant() = default;
    Constant(const T* data, std::size_t size) {
        static Living<T> living;
        if (size) array_ = living.equal_to(data, size);
    }

    const T* data() const { return array_ ? array_->data() : nullptr; }
    std::size_t size() const { return array_ ? array_->size() : 0; }
    bool empty() const { return !array_; }
    const T* begin() const { return data(); }
    const T* end() const { return data() + size(); }
    const T& operator[](std::size_t i) const { return (*array_)[i]; }

   private:
    std::shared_ptr<const std::vector<T>> array_;
};

}  // namespace bitrelax
