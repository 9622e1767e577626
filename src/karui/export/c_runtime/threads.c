/* A job in parts, a part a thread, for programs that are compiled with -DNAME_THREADS=n -pthread; elsewhere there is one part. */

#include <pthread.h>
#include <stdint.h>

/* A part of a job: `part` of `parts`. */
typedef void k_part(const void *job, int32_t part, int32_t parts);

/* The threads wait for a turn, which changes with each job. `used` is held by the run whose job it is. Then what each does, for ever. */
#if defined(K_THREADS)
static struct k_pool {
    pthread_mutex_t used, lock;
    pthread_cond_t begin, end;
    k_part *part;
    const void *job;
    int32_t threads, turn, left; /* those that were started; those that work on the job */
} k_pool = {.used = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER, .begin = PTHREAD_COND_INITIALIZER,
            .end = PTHREAD_COND_INITIALIZER, .part = NULL, .job = NULL, .threads = -1, .turn = 0, .left = 0};

static void *k_works(void *place)
{
    const int32_t mine = (int32_t)(intptr_t)place;
    int32_t seen = 0;
    pthread_mutex_lock(&k_pool.lock);
    for (;;) {
        while (seen == k_pool.turn)
            pthread_cond_wait(&k_pool.begin, &k_pool.lock);
        seen = k_pool.turn;
        if (mine <= k_pool.threads) {
            const int32_t parts = k_pool.threads + 1;
            k_part *const part = k_pool.part;
            const void *const job = k_pool.job;
            pthread_mutex_unlock(&k_pool.lock);
            part(job, mine, parts);
            pthread_mutex_lock(&k_pool.lock);
            if (--k_pool.left == 0)
                pthread_cond_signal(&k_pool.end);
        }
    }
    return NULL;
}
#endif

/* The threads that there are, besides the caller: started by the first job. `used` is held. */
#if defined(K_THREADS)
static int32_t k_threads(void)
{
    pthread_t thread;
    int32_t started = 0;
    if (k_pool.threads >= 0)
        return k_pool.threads;
    while (started < K_THREADS - 1 && pthread_create(&thread, NULL, k_works, (void *)(intptr_t)(started + 1)) == 0) {
        pthread_detach(thread);
        started++;
    }
    pthread_mutex_lock(&k_pool.lock);
    k_pool.threads = started;
    pthread_mutex_unlock(&k_pool.lock);
    return started;
}
#endif

/* All parts of a job; whoever finds the threads at work for another run does it alone. */
static void k_parallel(k_part *part, const void *job)
{
#if defined(K_THREADS)
    if (pthread_mutex_trylock(&k_pool.used) == 0) {
        const int32_t threads = k_threads();
        pthread_mutex_lock(&k_pool.lock);
        k_pool.part = part;
        k_pool.job = job;
        k_pool.left = threads;
        k_pool.turn ^= 1;
        pthread_cond_broadcast(&k_pool.begin);
        pthread_mutex_unlock(&k_pool.lock);
        part(job, 0, threads + 1);
        pthread_mutex_lock(&k_pool.lock);
        while (k_pool.left)
            pthread_cond_wait(&k_pool.end, &k_pool.lock);
        pthread_mutex_unlock(&k_pool.lock);
        pthread_mutex_unlock(&k_pool.used);
        return;
    }
#endif
    part(job, 0, 1);
}
