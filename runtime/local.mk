coterieinclude_HEADERS += include/coterie/session.h include/coterie/transport.h

if HAVE_MPI
pkgconfig_DATA += coterie-mpi.pc
endif
