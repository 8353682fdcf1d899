coterieinclude_HEADERS += include/coterie/model.h
