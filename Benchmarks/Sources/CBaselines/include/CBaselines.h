// The C side of the benchmark: the baselines that the library is measured against, and what both sides measure with.
#ifndef BENCH_CBASELINES_H
#define BENCH_CBASELINES_H

#include "bench_allocations.h"
#include "bench_echo.h"
#include "bench_file.h"
#include "bench_peer.h"
#include "bench_post.h"
#include "bench_process.h"
#include "bench_schedule.h"
#include "bench_support.h"

#endif
