/* What the backend "watched" tells and takes. It is another backend, found at XH_WATCHED, with a notebook: the
 * functions below are looked up in the plugin by name. */
#ifndef XHYBRID_TESTS_DEVICE_WATCHED_H_
#define XHYBRID_TESTS_DEVICE_WATCHED_H_

#include <stdint.h>

#define XH_WATCHED_DEVICE "watched"

/* One letter a call since the last one that asked, a string: 'r' plan_run, 'p' capture_replay, 'b' and 'e' where work
 * begins and ends to be noted, 'u' copy from the host to the device, 'd' from the device to the host, 'm' within the
 * device, 's' synchronize, 'v' record or wait of an event, 'a' allocate, 'f' release, 'o' plan_open. */
typedef const char* (*xh_watched_calls_fn)(void);
/* Seconds in synchronize and in copies to the host, and in all other calls, since the last one that asked. */
typedef void (*xh_watched_seconds_fn)(double* waiting, double* queueing);
/* The allocation after `count` more is refused, one time; below 0: none. */
typedef void (*xh_watched_refuse_fn)(int64_t count);
/* 1: the refusal that was asked for has happened. */
typedef int (*xh_watched_refused_fn)(void);
/* 1: the open device computes in the host's own memory. */
typedef int (*xh_watched_host_memory_fn)(void);
/* Takes memory of the open device until no more than `leave` bytes are to be had, or gives all of it back (below 0). */
typedef void (*xh_watched_fill_fn)(int64_t leave);

#endif /* XHYBRID_TESTS_DEVICE_WATCHED_H_ */
