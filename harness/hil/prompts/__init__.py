"""Questions to people at the station: durable records, any number of fronts, one valid answer."""
