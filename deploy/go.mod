module github.com/rucflow/rucflow/deploy

go 1.26.8

require (
	github.com/rucflow/rucflow/cachewriter v0.0.0
	github.com/rucflow/rucflow/gateway v0.0.0
	github.com/rucflow/rucflow/scraper v0.0.0
	github.com/rucflow/rucflow/shared v0.0.0
)

replace github.com/rucflow/rucflow/shared => ../shared

replace github.com/rucflow/rucflow/gateway => ../gateway

replace github.com/rucflow/rucflow/scraper => ../scraper

replace github.com/rucflow/rucflow/cachewriter => ../cachewriter
