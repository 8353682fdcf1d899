# the bench room's files
noinst_PROGRAMS += bench/kernels
bench_kernels_SOURCES = bench/kernels.c bench/limits.c bench/limits.h
bench_kernels_LDADD = libcoterie.la
