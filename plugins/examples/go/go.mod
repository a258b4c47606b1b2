module spans-go

go 1.24
