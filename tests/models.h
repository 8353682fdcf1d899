#ifndef COTERIE_TESTS_MODELS_H
#define COTERIE_TESTS_MODELS_H
/* Models for tests: the fixtures, damaged copies of them, and models of any
 * config with made-up weights. Failures end the test. */
#include <stddef.h>
#include <stdint.h>

#include <coterie/model.h>
#include <jansson.h>

enum { PATH_SIZE = 256 };

/* The fixtures' folder names, and NULL. */
extern const char *const fixture_names[];

void fixture_path(const char *name, char path[PATH_SIZE]);

/* A new folder; folder_remove takes it away again. */
void folder_make(char folder[PATH_SIZE]);

/* Copies a fixture into a new folder. */
void fixture_copy(const char *name, char folder[PATH_SIZE]);

/* folder/name */
void path_in(const char *folder, const char *name, char path[PATH_SIZE]);

/* Packs a model's directory into a store, folder/store, of a new folder. */
void store_pack(const char *directory, char folder[PATH_SIZE],
                char store[PATH_SIZE]);

/* The records of a model's first `count` experts, layer by layer; each to be
 * freed. Returns their size in bytes. */
size_t records_load(const coterie_model_t *model, uint32_t experts,
                    uint32_t count, unsigned char **records);

/* A fixture's config.json, to change and to save. */
json_t *config_load(const char *name);
void config_save(const char *folder, const json_t *config);

/* The JSON header of a safetensors file; saving keeps the data behind it. */
json_t *header_load(const char *path);
void header_save(const char *path, const json_t *header);

/* Writes model.safetensors of what the config asks for, with bytes that
 * differ from tensor to tensor. Takes config over. */
void model_write(const char *folder, json_t *config, uint32_t dtype);

void *file_load(const char *path, size_t *size_p);
void file_save(const char *path, const void *data, size_t size);
void file_flip(const char *path, size_t offset);

void folder_remove(const char *folder);

#endif
