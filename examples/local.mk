noinst_PROGRAMS += examples/engine
examples_engine_SOURCES = examples/engine.c
examples_engine_LDADD = libcoterie.la
EXTRA_DIST += examples/tiny-moe
