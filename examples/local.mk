# the examples room's files
