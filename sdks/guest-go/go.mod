module realm.dev/guest

go 1.26
