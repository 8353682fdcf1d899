noinst_PROGRAMS += examples/engine examples/layers
examples_engine_SOURCES = examples/engine.c
examples_engine_LDADD = libcoterie.la
examples_layers_SOURCES = examples/layers.c
examples_layers_LDADD = libcoterie.la
EXTRA_DIST += examples/tiny-moe
