coterieinclude_HEADERS += include/coterie/session.h include/coterie/transport.h
libcoterie_la_SOURCES += runtime/threads.c runtime/transport.c \
	runtime/transport.h

# A library of its own, so that engines without MPI do not load it.
if HAVE_MPI
lib_LTLIBRARIES += libcoterie-mpi.la
pkgconfig_DATA += coterie-mpi.pc
endif
libcoterie_mpi_la_SOURCES = runtime/mpi.c
libcoterie_mpi_la_CFLAGS = $(AM_CFLAGS) $(MPI_CFLAGS)
libcoterie_mpi_la_LIBADD = libcoterie.la $(MPI_LIBS)
libcoterie_mpi_la_LDFLAGS = $(AM_LDFLAGS) -version-info 0:0:0
