/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Places between two steps of which somebody may come in between. The module that is built for a kernel with checkers (Kbuild) stops there for a
 * moment now and then (delay.c); in any other there is nothing, not even a branch.
 *
 * What a place is between is said by its name and by where it stands. src/delay.rs has those of Rust, in the same order: change both together.
 */
#ifndef _TCP_SPLICE_DELAY_H
#define _TCP_SPLICE_DELAY_H

#define TS_DELAY_POINTS(X) \
	/* Rust's */ \
	X(seen_tcp) X(seen_prod) \
	X(published) X(parking) X(parked) \
	X(given_back) X(full) X(parked_for_room) \
	X(may_start) X(started) X(leaving) X(left) X(to_tcp) \
	X(half_closed) X(handing_back) X(closed_to_reading) X(copied_back) \
	X(registry) X(taken) X(claiming) X(installed) X(linked) X(joined) \
	X(slot_cleared) X(letting_go) X(last_put) \
	/* C's */ \
	X(registered) X(asleep) X(awake) \
	X(shutting_down) X(closing) X(unhashing) X(releasing) X(retired) \
	X(drain_found) X(drain_looked) X(drain_handed_back) X(drain_taken_off) X(stale_found)

#ifdef TS_CHECKED
enum ts_delay_point {
#define X(name) TS_DELAY_##name,
	TS_DELAY_POINTS(X)
#undef X
	TS_DELAYS_COUNT
};

void ts_delay(unsigned int point);
#define ts_delay_at(name) ts_delay(TS_DELAY_##name)
#else
#define ts_delay_at(name) do { } while (0)
#endif

#endif
