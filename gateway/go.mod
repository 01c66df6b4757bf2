module github.com/rucflow/rucflow/gateway

go 1.26.8

require github.com/rucflow/rucflow/shared v0.0.0

replace github.com/rucflow/rucflow/shared => ../shared
