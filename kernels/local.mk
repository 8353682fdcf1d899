coterieinclude_HEADERS += include/coterie/kernels.h
