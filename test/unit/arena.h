/*-------------------------------------------------------------------------
 *
 * arena.h
 *		palloc() and its kin for fuzz targets: all of it can be freed at once.
 *
 * Outside the server there are no memory contexts, so code written for them
 * would leak until the fuzzer stops.  Each piece is a malloc() of its own,
 * for the address sanitizer to watch.  Take it into one file of a program.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_TEST_ARENA_H
#define UDS_TEST_ARENA_H

#include "postgres_fe.h"

#include "lib/ilist.h"

typedef struct ArenaPiece
{
	dlist_node	node;
	size_t		size;
} ArenaPiece;

static dlist_head arena_pieces = DLIST_STATIC_INIT(arena_pieces);

void *
palloc(Size size)
{
	ArenaPiece *piece = malloc(sizeof(ArenaPiece) + size);

	if (piece == NULL)
		abort();
	piece->size = size;
	dlist_push_head(&arena_pieces, &piece->node);
	return piece + 1;
}

void *
palloc0(Size size)
{
	return memset(palloc(size), 0, size);
}

void *
palloc_extended(Size size, int flags)
{
	return palloc0(size);
}

void
pfree(void *pointer)
{
	ArenaPiece *piece = (ArenaPiece *) pointer - 1;

	dlist_delete(&piece->node);
	free(piece);
}

void *
repalloc(void *pointer, Size size)
{
	ArenaPiece *piece = (ArenaPiece *) pointer - 1;
	void	   *copy = palloc(size);

	memcpy(copy, pointer, Min(size, piece->size));
	pfree(pointer);
	return copy;
}

char *
pnstrdup(const char *text, Size size)
{
	size_t		len = strnlen(text, size);
	char	   *copy = memcpy(palloc(len + 1), text, len);

	copy[len] = '\0';
	return copy;
}

char *
pstrdup(const char *text)
{
	return pnstrdup(text, strlen(text));
}

void *
pg_malloc(size_t size)
{
	return palloc(size);
}

void *
pg_malloc0(size_t size)
{
	return palloc0(size);
}

void *
pg_realloc(void *pointer, size_t size)
{
	return pointer ? repalloc(pointer, size) : palloc(size);
}

char *
pg_strdup(const char *text)
{
	return pstrdup(text);
}

void
pg_free(void *pointer)
{
	if (pointer != NULL)
		pfree(pointer);
}

static void
arena_reset(void)
{
	while (!dlist_is_empty(&arena_pieces))
		free(dlist_container(ArenaPiece, node, dlist_pop_head_node(&arena_pieces)));
}

#endif							/* UDS_TEST_ARENA_H */
