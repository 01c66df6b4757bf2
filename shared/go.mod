module github.com/rucflow/rucflow/shared

go 1.26.8
