/* Read bandwidth of main memory: what a decode step is bound by.
 *
 *   cc -O3 -march=native -pthread bandwidth.c -o bandwidth
 *   bandwidth MIB REPEATS CPU [CPU ...]
 *
 * One thread for each CPU named, pinned to it, sums its share of MIB mebibytes. Prints one line of JSON with the
 * best and the median rate in GB/s (1e9 bytes).
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef float vec __attribute__((vector_size(32)));

enum { LANES = 8, MAX_THREADS = 256 };

struct share {
    int cpu;
    size_t vectors; /* a multiple of LANES */
    int repeats;
    vec *data;
    double sink;
    pthread_barrier_t *barrier;
};

static void fail(const char *what) {
    fprintf(stderr, "bandwidth: %s\n", what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void *work(void *arg) {
    struct share *s = arg;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(s->cpu, &set);
    if (pthread_setaffinity_np(pthread_self(), sizeof set, &set)) fail("cannot pin a thread");
    /* The thread that reads the pages touches them first. */
    if (posix_memalign((void **)&s->data, 4096, s->vectors * sizeof(vec))) fail("out of memory");
    for (size_t i = 0; i < s->vectors; i++) s->data[i] = (vec){1, 2, 3, 4, 5, 6, 7, 8};
    for (int r = 0; r < s->repeats; r++) {
        pthread_barrier_wait(s->barrier);
        vec sum[LANES];
        memset(sum, 0, sizeof sum);
        for (size_t i = 0; i < s->vectors; i += LANES)
            for (int k = 0; k < LANES; k++) sum[k] += s->data[i + k];
        for (int k = 0; k < LANES; k++) s->sink += sum[k][0];
        pthread_barrier_wait(s->barrier);
    }
    return NULL;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc < 4 || argc - 3 > MAX_THREADS) fail("usage: bandwidth MIB REPEATS CPU [CPU ...]");
    size_t mib = strtoul(argv[1], NULL, 10);
    int repeats = atoi(argv[2]), threads = argc - 3;
    if (mib == 0 || repeats < 1) fail("MIB and REPEATS must be positive");
    size_t vectors = mib * 1024 * 1024 / sizeof(vec) / threads / LANES * LANES;

    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, threads + 1);
    pthread_t ids[MAX_THREADS];
    struct share shares[MAX_THREADS];
    for (int t = 0; t < threads; t++) {
        shares[t] = (struct share){atoi(argv[3 + t]), vectors, repeats, NULL, 0, &barrier};
        if (pthread_create(&ids[t], NULL, work, &shares[t])) fail("cannot start a thread");
    }
    double *rate = malloc(repeats * sizeof *rate);
    for (int r = 0; r < repeats; r++) {
        pthread_barrier_wait(&barrier);
        double t = now();
        pthread_barrier_wait(&barrier);
        rate[r] = (double)vectors * sizeof(vec) * threads / (now() - t) / 1e9;
    }
    double sink = 0;
    for (int t = 0; t < threads; t++) {
        pthread_join(ids[t], NULL);
        sink += shares[t].sink;
    }
    qsort(rate, repeats, sizeof *rate, ascending);
    printf("{\"threads\": %d, \"best_gb_s\": %.2f, \"median_gb_s\": %.2f}\n", threads, rate[repeats - 1], rate[repeats / 2]);
    return sink < 0; /* keeps the sums alive */
}
