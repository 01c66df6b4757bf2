package replica

import (
	"bytes"
	"image"
	"image/color"
	"image/draw"
	"image/gif"
	"image/png"
	"sync"
)

// The site's pictures are drawn here: a logo that says what this site is, a
// spinner's stand-in, and the image of the captcha that nobody is shown any more.

var (
	logoPNG    = sync.OnceValue(func() []byte { return encodePNG(lettering(logoRows, 6)) })
	captchaPNG = sync.OnceValue(func() []byte { return encodePNG(lettering(captchaRows, 2)) })
	loadingGIF = sync.OnceValue(func() []byte {
		var b bytes.Buffer
		if err := gif.Encode(&b, lettering([]string{"#.#.#"}, 8), nil); err != nil {
			panic("replica: draw loading.gif: " + err.Error())
		}
		return b.Bytes()
	})
)

// logoRows spell REPLICA, five pixels high.
var logoRows = []string{
	"###..####.###..#....#..###...#..",
	"#..#.#....#..#.#....#.#.....#.#.",
	"###..###..###..#....#.#....#...#",
	"#.#..#....#....#....#.#....#####",
	"#..#.####.#....####.#..###.#...#",
}

var captchaRows = []string{
	"#...#.#####.#....",
	".#.#..#.....#....",
	"..#...###...#....",
	".#.#..#.....#....",
	"#...#.#####.#####",
}

// lettering draws rows of # as squares of the given size, with a margin.
func lettering(rows []string, size int) image.Image {
	blue := color.RGBA{R: 0x33, G: 0x7a, B: 0xb7, A: 0xff}
	bounds := image.Rect(0, 0, (len(rows[0])+2)*size, (len(rows)+2)*size)
	picture := image.NewPaletted(bounds, color.Palette{color.White, blue})
	for y, row := range rows {
		for x, c := range row {
			if c == '#' {
				square := image.Rect((x+1)*size, (y+1)*size, (x+2)*size, (y+2)*size)
				draw.Draw(picture, square, image.NewUniform(blue), image.Point{}, draw.Src)
			}
		}
	}
	return picture
}

func encodePNG(picture image.Image) []byte {
	var b bytes.Buffer
	if err := png.Encode(&b, picture); err != nil {
		panic("replica: draw a picture: " + err.Error())
	}
	return b.Bytes()
}
