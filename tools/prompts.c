#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/prompts.h"

#define BLANKS " \t\r"

enum { PROMPT_BYTES_MAX = 1 << 26 };

/* Prompts one after the other, while they are read. */
typedef struct reader {
    uint32_t vocab, room;
    uint32_t count, count_max;
    uint32_t *length;
    uint64_t used, used_max;
    int32_t *tokens;
} reader_t;

static coterie_status_t argument_read(reader_t *r, const char *option,
                                      const char *text);
static coterie_status_t file_read(const char *path, char **text_p,
                                  size_t *size_p);
static coterie_status_t lines_read(reader_t *r, char *text, size_t size,
                                   bool ids);
static coterie_status_t text_add(reader_t *r, const char *text, size_t size);
static coterie_status_t ids_add(reader_t *r, const char *text);
static coterie_status_t token_add(reader_t *r, int32_t token);
static coterie_status_t sequence_end(reader_t *r, uint64_t began);
static coterie_status_t prompts_lay_out(const reader_t *r, prompts_t *prompts);

coterie_status_t prompts_create(const argument_list_t *list, uint32_t vocab,
                                uint32_t room, prompts_t *prompts)
{
    reader_t r = {.vocab = vocab, .room = room};
    coterie_status_t status = COTERIE_OK;

    for (uint32_t i = 0; i < list->count && status == COTERIE_OK; i++)
        status =
            argument_read(&r, list->items[i].option, list->items[i].text);
    if (status == COTERIE_OK)
        status = prompts_lay_out(&r, prompts);
    free(r.length);
    free(r.tokens);
    return status;
}

void prompts_destroy(prompts_t *prompts)
{
    free(prompts->length);
    free(prompts->start);
    free(prompts->tokens);
    *prompts = (prompts_t){0};
}

static coterie_status_t argument_read(reader_t *r, const char *option,
                                      const char *text)
{
    bool ids = strncmp(option, "prompt-ids", strlen("prompt-ids")) == 0;
    coterie_status_t status;
    char *content = NULL;
    size_t size = 0;

    if (!ids && r->vocab != BYTE_VOCAB)
        return failure(COTERIE_ERR_UNSUPPORTED,
                       "--%s needs a vocabulary of %d bytes; this model's has "
                       "%u tokens: use --prompt-ids",
                       option, BYTE_VOCAB, r->vocab);
    if (strcmp(option, "prompt-ids") == 0)
        return ids_add(r, text);
    if (strcmp(option, "prompt") == 0)
        return text_add(r, text, strlen(text));
    status = file_read(text, &content, &size);
    if (status != COTERIE_OK)
        return status;
    status = strcmp(option, "prompt-file") == 0
                 ? text_add(r, content, size)
                 : lines_read(r, content, size, ids);
    free(content);
    return status;
}

/* Also from pipes, whose size nobody knows before. */
static coterie_status_t file_read(const char *path, char **text_p,
                                  size_t *size_p)
{
    FILE *stream = fopen(path, "rb");
    char *text = malloc(PROMPT_BYTES_MAX + 1);
    coterie_status_t status = COTERIE_OK;

    if (stream == NULL || text == NULL) {
        status = failure(COTERIE_ERR_IO, "%s: %s", path, strerror(errno));
        goto out;
    }
    *size_p = fread(text, 1, PROMPT_BYTES_MAX + 1, stream);
    if (ferror(stream)) {
        status = failure(COTERIE_ERR_IO, "%s: %s", path, strerror(errno));
    } else if (*size_p > PROMPT_BYTES_MAX) {
        status = failure(COTERIE_ERR_INVALID,
                         "%s: a prompt file may have %d bytes", path,
                         PROMPT_BYTES_MAX);
    } else {
        text[*size_p] = '\0';
        *text_p = text;
        text = NULL;
    }
out:
    if (stream != NULL)
        fclose(stream);
    free(text);
    return status;
}

/* One sequence a line; empty lines are none. */
static coterie_status_t lines_read(reader_t *r, char *text, size_t size,
                                   bool ids)
{
    coterie_status_t status = COTERIE_OK;

    for (char *line = text; line < text + size && status == COTERIE_OK;) {
        size_t length = strcspn(line, "\n");
        line[length] = '\0';
        if (length > 0)
            status = ids ? ids_add(r, line) : text_add(r, line, length);
        line += length + 1;
    }
    return status;
}

static coterie_status_t text_add(reader_t *r, const char *text, size_t size)
{
    uint64_t began = r->used;
    coterie_status_t status = COTERIE_OK;

    for (size_t i = 0; i < size && status == COTERIE_OK; i++)
        status = token_add(r, (unsigned char)text[i]);
    return status == COTERIE_OK ? sequence_end(r, began) : status;
}

/* One comma between two ids; blanks do as well, and one may come last. */
static coterie_status_t ids_add(reader_t *r, const char *text)
{
    uint64_t began = r->used;
    coterie_status_t status = COTERIE_OK;

    for (const char *at = text + strspn(text, BLANKS);
         *at != '\0' && status == COTERIE_OK;) {
        char *end;
        long id;
        errno = 0;
        id = strtol(at, &end, 10);
        if (end == at || errno != 0 || id < 0 || id >= (long)r->vocab)
            return failure(COTERIE_ERR_INVALID,
                           "token ids are 0 to %u with commas between, not "
                           "'%.40s'",
                           r->vocab - 1, at);
        status = token_add(r, (int32_t)id);
        at = end + strspn(end, BLANKS);
        at += *at == ',';
        at += strspn(at, BLANKS);
    }
    return status == COTERIE_OK ? sequence_end(r, began) : status;
}

static coterie_status_t token_add(reader_t *r, int32_t token)
{
    if (r->used == r->used_max) {
        uint64_t most = 2 * r->used_max + 256;
        int32_t *tokens = realloc(r->tokens, most * sizeof(*tokens));
        if (tokens == NULL)
            return failure(COTERIE_ERR_NO_MEMORY, "no memory for prompts");
        r->tokens = tokens;
        r->used_max = most;
    }
    r->tokens[r->used++] = token;
    return COTERIE_OK;
}

static coterie_status_t sequence_end(reader_t *r, uint64_t began)
{
    if (r->used == began)
        return failure(COTERIE_ERR_INVALID,
                       "prompt %u is empty: the model needs a token to start "
                       "from",
                       r->count);
    if (r->count == r->count_max) {
        uint32_t most = 2 * r->count_max + 16;
        uint32_t *length = realloc(r->length, most * sizeof(*length));
        if (length == NULL)
            return failure(COTERIE_ERR_NO_MEMORY, "no memory for prompts");
        r->length = length;
        r->count_max = most;
    }
    r->length[r->count++] = (uint32_t)(r->used - began);
    return COTERIE_OK;
}

/* Each sequence gets the room that its tokens will take, so that a position
 * has one index on every rank from the start. */
static coterie_status_t prompts_lay_out(const reader_t *r, prompts_t *prompts)
{
    uint64_t total = r->used + (uint64_t)r->count * r->room, from = 0;
    prompts_t p = {.count = r->count};

    if (r->count == 0)
        return failure(COTERIE_ERR_INVALID, "there is no prompt");
    p.length = malloc(r->count * sizeof(*p.length));
    p.start = malloc((r->count + 1) * sizeof(*p.start));
    p.tokens = malloc(total * sizeof(*p.tokens));
    if (p.length == NULL || p.start == NULL || p.tokens == NULL) {
        prompts_destroy(&p);
        return failure(COTERIE_ERR_NO_MEMORY, "no memory for %llu tokens",
                       (unsigned long long)total);
    }
    memset(p.tokens, -1, total * sizeof(*p.tokens));
    memcpy(p.length, r->length, r->count * sizeof(*p.length));
    p.start[0] = 0;
    for (uint32_t s = 0; s < r->count; s++) {
        memcpy(p.tokens + p.start[s], r->tokens + from,
               p.length[s] * sizeof(*p.tokens));
        from += p.length[s];
        p.start[s + 1] = p.start[s] + p.length[s] + r->room;
    }
    *prompts = p;
    return COTERIE_OK;
}
