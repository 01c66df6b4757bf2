module github.com/rucflow/rucflow/cachewriter

go 1.26.8

require github.com/rucflow/rucflow/shared v0.0.0

replace github.com/rucflow/rucflow/shared => ../shared
