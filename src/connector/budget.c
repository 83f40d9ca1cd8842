/*-------------------------------------------------------------------------
 *
 * budget.c
 *		How many requests may be begun in a time, as the manifest says.
 *
 * Each budget remembers when its last so many requests were begun.  The next
 * one may begin when the oldest of them is as old as the stretch is long; so
 * no stretch of that length ever has more.
 *
 * Runs in background workers, outside any transaction; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "connector/engine.h"

/* When requests were begun that count together: a ring. */
typedef struct Ring
{
	const UdsStreamSpec *stream;	/* NULL: those for tokens */
	int64	   *begun;			/* budget->requests of them, 0 = none yet */
	int			oldest;
} Ring;

struct UdsBudgetState
{
	const UdsBudgetSpec *spec;
	List	   *rings;			/* of Ring *; one, or one per stream */
};

/*
 * Opens the budgets of a run, in its memory context.
 */
void
uds_budget_open(UdsRun *run)
{
	const UdsManifest *manifest = run->manifest;

	run->budgets = MemoryContextAllocZero(run->context,
										  (manifest->nbudgets + 1) * sizeof(UdsBudgetState));
	for (int i = 0; i < manifest->nbudgets; i++)
		run->budgets[i].spec = &manifest->budgets[i];
}

static Ring *
get_ring(UdsRun *run, UdsBudgetState *budget, const UdsStreamSpec *stream)
{
	MemoryContext caller;
	Ring	   *ring;
	ListCell   *lc;

	foreach(lc, budget->rings)
	{
		ring = lfirst(lc);
		if (!budget->spec->per_stream || ring->stream == stream)
			return ring;
	}
	caller = MemoryContextSwitchTo(run->context);
	ring = palloc0(sizeof(Ring));
	ring->stream = stream;
	ring->begun = palloc0(budget->spec->requests * sizeof(int64));
	budget->rings = lappend(budget->rings, ring);
	MemoryContextSwitchTo(caller);
	return ring;
}

/*
 * When a request of a stream may begin, on our clock: now, or later.
 */
int64
uds_budget_time(UdsRun *run, const UdsStreamSpec *stream, int64 now)
{
	int64		time = now;

	for (int i = 0; i < run->manifest->nbudgets; i++)
	{
		Ring	   *ring = get_ring(run, &run->budgets[i], stream);
		int64		oldest = ring->begun[ring->oldest];

		if (oldest != 0)
			time = Max(time, oldest + (int64) run->budgets[i].spec->seconds * 1000);
	}
	return time;
}

/*
 * Counts a request that begins now.
 */
void
uds_budget_spend(UdsRun *run, const UdsStreamSpec *stream, int64 now)
{
	for (int i = 0; i < run->manifest->nbudgets; i++)
	{
		Ring	   *ring = get_ring(run, &run->budgets[i], stream);

		ring->begun[ring->oldest] = Max(now, 1);
		ring->oldest = (ring->oldest + 1) % run->budgets[i].spec->requests;
	}
}
