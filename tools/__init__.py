"""Programs run once per data set or model: import, sample, judge, train the embedded model, the demo."""
