# the bench room's files
