#include "threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace posewarp::cpu
{
namespace
{

constexpr int kMAX_THREADS = 256;

// One body for many indices. Whoever takes part takes the next index until there is none.
struct Job
{
    size_t mCount;
    ParallelFor::Body mBody;
    void* mData;
    std::atomic<size_t> mNext{0};
    int mWanted;    // workers that may still join
    int mActive{0}; // workers in it

    void work()
    {
        for (size_t i = mNext.fetch_add(1); i < mCount; i = mNext.fetch_add(1))
        {
            mBody(mData, i);
        }
    }
};

class Pool
{
public:
    void run(int threads, size_t count, ParallelFor::Body body, void* data)
    {
        Job job{count, body, data, {0}, 0};
        int const helpers = static_cast<int>(std::min<size_t>(static_cast<size_t>(threads), count)) - 1;
        std::unique_lock<std::mutex> lock(mMutex);
        bool const posted = helpers > 0 && mJob.load() == nullptr;
        if (posted)
        {
            startWorkers(helpers);
            job.mWanted = helpers;
            mJob.store(&job);
            mPosted.notify_all();
        }
        lock.unlock();
        job.work();
        if (posted)
        {
            lock.lock();
            mJob.store(nullptr); // a worker that has not joined by now never will
            mLeft.wait(lock, [&] { return job.mActive == 0; });
        }
    }

private:
    void startWorkers(int count)
    {
        try
        {
            for (; mWorkers < count; ++mWorkers)
            {
                std::thread(&Pool::serve, this).detach();
            }
        }
        catch (std::exception const&)
        {
            // Fewer threads, then: the caller's own is always there.
        }
    }

    [[noreturn]] void serve()
    {
        std::unique_lock<std::mutex> lock(mMutex);
        while (true)
        {
            // The next call often follows at once (packing, then sampling; layer after layer), and waking takes longer
            // than a small warp: look for a while before sleeping.
            lock.unlock();
            for (int i = 0; i < kSPINS && mJob.load(std::memory_order_relaxed) == nullptr; ++i)
            {
                pause();
            }
            lock.lock();
            mPosted.wait(lock, [&] { return mJob.load() != nullptr && mJob.load()->mWanted > 0; });
            Job& job = *mJob.load();
            --job.mWanted;
            ++job.mActive;
            lock.unlock();
            job.work();
            lock.lock();
            if (--job.mActive == 0)
            {
                mLeft.notify_all();
            }
        }
    }

    static void pause()
    {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#else
        std::this_thread::yield();
#endif
    }

    static constexpr int kSPINS = 2000; // some 40 us

    std::mutex mMutex;
    std::condition_variable mPosted, mLeft;
    std::atomic<Job*> mJob{nullptr};
    int mWorkers{0};
};

class ScratchStore
{
public:
    void* take(size_t bytes)
    {
        std::unique_lock<std::mutex> lock(mMutex);
        void* memory = nullptr;
        if (!mFree.empty())
        {
            memory = mFree.back();
            mFree.pop_back();
        }
        lock.unlock();
        if (memory != nullptr && sizeOf(memory) >= bytes)
        {
            return memory;
        }
        release(memory);
        void* fresh = nullptr;
        if (posix_memalign(&fresh, kLINE, kLINE + bytes) != 0)
        {
            return nullptr;
        }
        memory = static_cast<char*>(fresh) + kLINE; // its size is kept in the line before
        sizeOf(memory) = bytes;
        return memory;
    }

    void giveBack(void* memory)
    {
        if (sizeOf(memory) > kLARGEST_KEPT)
        {
            return release(memory);
        }
        std::unique_lock<std::mutex> lock(mMutex);
        try
        {
            mFree.push_back(memory);
        }
        catch (std::bad_alloc const&)
        {
            release(memory);
        }
    }

private:
    static constexpr size_t kLINE = 64;
#if defined(__SANITIZE_ADDRESS__)
    static constexpr size_t kLARGEST_KEPT = 0; // a larger buffer than was asked for would hide reads beyond its end
#else
    static constexpr size_t kLARGEST_KEPT = size_t{64} << 20;
#endif

    static size_t& sizeOf(void* memory)
    {
        return *reinterpret_cast<size_t*>(static_cast<char*>(memory) - kLINE);
    }

    static void release(void* memory)
    {
        if (memory != nullptr)
        {
            std::free(static_cast<char*>(memory) - kLINE);
        }
    }

    std::mutex mMutex;
    std::vector<void*> mFree;
};

// Never destroyed: threads sleep in it when the process ends. A forked child has none of the threads, and locks as
// they were: it begins anew.
struct State
{
    Pool mPool;
    ScratchStore mScratch;
};

State* sState = nullptr;

State& state()
{
    static bool const sReady = [] {
        sState = new State;
#if defined(__linux__)
        pthread_atfork(nullptr, nullptr, [] { sState = new State; });
#endif
        return true;
    }();
    static_cast<void>(sReady);
    return *sState;
}

} // namespace

int countCpus()
{
#if defined(__linux__)
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0)
    {
        return CPU_COUNT(&cpus);
    }
#endif
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

ParallelFor ownThreads(int threads)
{
    threads = std::min(threads > 0 ? threads : countCpus(), kMAX_THREADS);
    return {[](void* context, size_t count, ParallelFor::Body body, void* data) {
                state().mPool.run(static_cast<int>(reinterpret_cast<intptr_t>(context)), count, body, data);
            },
        reinterpret_cast<void*>(static_cast<intptr_t>(threads)), threads};
}

Scratch takeScratch(size_t bytes)
{
    return Scratch(state().mScratch.take(bytes));
}

void ReturnScratch::operator()(void* memory) const
{
    state().mScratch.giveBack(memory);
}

} // namespace posewarp::cpu
