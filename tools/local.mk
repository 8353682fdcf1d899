# the tools room's files
