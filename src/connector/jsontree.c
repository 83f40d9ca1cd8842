/*-------------------------------------------------------------------------
 *
 * jsontree.c
 *		A tree of cJSON's in memory of its own.
 *
 * A page of a megabyte becomes some fifty thousand small pieces of memory.  To
 * ask malloc for each, and to give each back, takes longer than to parse the
 * page; so they are cut from large blocks, which go all at once.
 *
 * Owns the blocks and, while there is a tree, the hooks of cJSON: no other tree
 * can be made or freed meanwhile.  Nothing here raises an error.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "connector/jsontree.h"

/* the block that is kept, and the largest that is asked for */
#define FIRST_BLOCK (256 * 1024)
#define LARGEST_BLOCK (8 * 1024 * 1024)

typedef struct Block
{
	struct Block *next;			/* the one before, kept until the end */
	size_t		size;			/* of the memory behind this */
	size_t		used;
} Block;

static Block *blocks;			/* the one in use first; the kept one last */

/* Puts a new block in use; false if there is no memory. */
static bool
add_block(size_t needed)
{
	size_t		size = blocks ? Min(2 * blocks->size, LARGEST_BLOCK) : FIRST_BLOCK;
	Block	   *block;

	size = Max(size, needed);
	block = malloc(MAXALIGN(sizeof(Block)) + size);
	if (block == NULL)
		return false;
	block->next = blocks;
	block->size = size;
	block->used = 0;
	blocks = block;
	return true;
}

static void *
take(size_t size)
{
	char	   *start;

	size = MAXALIGN(size);
	if ((blocks == NULL || blocks->size - blocks->used < size) && !add_block(size))
		return NULL;
	start = (char *) blocks + MAXALIGN(sizeof(Block)) + blocks->used;
	blocks->used += size;
	return start;
}

static void
give_back(void *memory)
{
	/* goes with all the others */
}

/*
 * The tree of a JSON text (len bytes), or NULL if it is none or there is no
 * memory; *stop then is where it was seen.  To be ended in any case, with
 * uds_json_tree_end().
 */
cJSON *
uds_json_tree_begin(const char *json, size_t len, const char **stop)
{
	cJSON_Hooks hooks = {.malloc_fn = take,.free_fn = give_back};

	cJSON_InitHooks(&hooks);
	return cJSON_ParseWithLengthOpts(json, len, stop, false);
}

/*
 * Frees the tree and whatever else cJSON made since it began.
 */
void
uds_json_tree_end(void)
{
	cJSON_InitHooks(NULL);
	while (blocks != NULL && (blocks->next != NULL || blocks->size > FIRST_BLOCK))
	{
		Block	   *block = blocks;

		blocks = block->next;
		free(block);
	}
	if (blocks != NULL)
		blocks->used = 0;
}
