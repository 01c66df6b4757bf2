// The real file holds helpers of other pages; the search form uses none of them.
