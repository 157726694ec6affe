// A few threads that wait for parts of one job at a time: awake for some microseconds after a job, asleep later. All
// programs of a process with one number of threads share them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace bitrelax {

class Workers {
   public:
    // Those of this number of threads, the caller's included; ended when nobody has them any more.
    static std::shared_ptr<Workers> of(int threads);
    ~Workers();

    // Calls job(part, worker) for parts 0..parts-1 on all threads and returns when all are done. Returns false, having
    // done nothing, while another thread runs a job here. Started at the first job; anew in a forked child, where the
    // parent's threads do not exist: they are forgotten there before any other thread can be.
    bool run(std::int64_t parts, const std::function<void(std::int64_t, int)>& job);

    int threads() const { return threads_; }

   private:
    struct Team;
    explicit Workers(int threads) : threads_(threads) {}
    static void forget_teams();
    int threads_;
    std::atomic<Team*> team_{nullptr};
    std::atomic<bool> busy_{false};
};

}  // namespace bitrelax
