// A few threads that wait for parts of one job at a time: awake for some microseconds after a job, asleep later.
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
    explicit Workers(int threads);  // the caller's included
    ~Workers();

    // Calls job(part, worker) for parts 0..parts-1 on all threads and returns when all are done. Returns false, having
    // done nothing, while another thread runs a job here. Started at the first job; anew in a forked child, where the
    // parent's threads do not exist.
    bool run(std::int64_t parts, const std::function<void(std::int64_t, int)>& job);

    int threads() const { return threads_; }

   private:
    struct Team;
    int threads_;
    std::atomic<Team*> team_{nullptr};
    std::atomic<bool> busy_{false};
    std::atomic<unsigned> generation_{0};
};

}  // namespace bitrelax
