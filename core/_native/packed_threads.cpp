#include "packed_threads.h"

#include <chrono>
#include <map>
#include <system_error>

#include "packed_floats.h"

#ifdef __unix__
#include <pthread.h>
#endif
#ifdef BITRELAX_X86
#include <immintrin.h>
#endif

namespace bitrelax {
namespace {

constexpr auto kAwake = std::chrono::microseconds(50);  // between two steps of one network; longer would burn a core

inline void pause() {
#ifdef BITRELAX_X86
    _mm_pause();
#endif
}

struct Registry {
    std::mutex mutex;
    std::map<int, std::weak_ptr<Workers>> by_threads;
};

Registry& registry() {
    static auto* kept = new Registry;  // for good: a process may fork while it ends
    return *kept;
}

}  // namespace

struct Workers::Team {
    std::mutex mutex;
    std::condition_variable wake;
    std::atomic<std::uint64_t> round{0};
    std::atomic<bool> stop{false};
    std::atomic<std::int64_t> next{0}, done{0};
    std::atomic<bool> open{false};
    std::atomic<int> inside{0};
    std::int64_t parts = 0;
    const std::function<void(std::int64_t, int)>* job = nullptr;
    std::vector<std::thread> threads;

    void work(int worker) {
        for (std::int64_t part; (part = next.fetch_add(1)) < parts;) {
            (*job)(part, worker);
            done.fetch_add(1);
        }
    }

    void wait_for_round(std::uint64_t seen) {
        const auto end = std::chrono::steady_clock::now() + kAwake;
        while (round.load() == seen && !stop.load()) {
            for (int i = 0; i < 64 && round.load() == seen; ++i) pause();
            if (std::chrono::steady_clock::now() > end) {
                std::unique_lock lock(mutex);
                wake.wait(lock, [&] { return round.load() != seen || stop.load(); });
            }
        }
    }

    void loop(int worker) {
        const StandardFloats standard;  // threads inherit the mode of the one that starts them
        for (std::uint64_t seen = 0;;) {
            wait_for_round(seen);
            if (stop.load()) return;
            seen = round.load();
            // `inside` keeps the job alive: the caller leaves only when nobody may still look at it
            inside.fetch_add(1);
            if (round.load() == seen && open.load()) work(worker);
            inside.fetch_sub(1);
        }
    }

    explicit Team(int count) {
        try {
            for (int worker = 1; worker < count; ++worker) threads.emplace_back([this, worker] { loop(worker); });
        } catch (const std::system_error&) {  // the system gives no more of them: those that are there do the work
        }
    }

    void run(std::int64_t count, const std::function<void(std::int64_t, int)>& what) {
        {
            const std::lock_guard lock(mutex);
            parts = count;
            job = &what;
            next.store(0);
            done.store(0);
            open.store(true);
            round.fetch_add(1);
        }
        wake.notify_all();
        work(0);
        for (int spins = 0; done.load() < count; ++spins) spins < 4096 ? pause() : std::this_thread::yield();
        open.store(false);
        for (int spins = 0; inside.load() > 0; ++spins) spins < 4096 ? pause() : std::this_thread::yield();
    }

    void end() {
        {
            const std::lock_guard lock(mutex);
            stop.store(true);
        }
        wake.notify_all();
        for (auto& thread : threads) thread.join();
    }
};

std::shared_ptr<Workers> Workers::of(int threads) {
#ifdef __unix__
    static const int registered = pthread_atfork(nullptr, nullptr, forget_teams);
    (void)registered;
#endif
    const std::lock_guard lock(registry().mutex);
    std::weak_ptr<Workers>& known = registry().by_threads[threads];
    std::shared_ptr<Workers> workers = known.lock();
    if (!workers) known = workers = std::shared_ptr<Workers>(new Workers(threads));
    return workers;
}

// In a forked child, whose only thread runs this: what the parent was doing is not done here, and its teams have no
// threads that could be joined.
void Workers::forget_teams() {
    for (auto& [threads, known] : registry().by_threads)
        if (const std::shared_ptr<Workers> workers = known.lock()) {
            workers->team_.store(nullptr);
            workers->busy_.store(false);
        }
}

Workers::~Workers() {
    if (Team* team = team_.load()) {
        team->end();
        delete team;
    }
}

bool Workers::run(std::int64_t parts, const std::function<void(std::int64_t, int)>& job) {
    if (busy_.exchange(true)) return false;
    if (!team_.load()) team_.store(new Team(threads_));
    team_.load()->run(parts, job);
    busy_.store(false);
    return true;
}

}  // namespace bitrelax
