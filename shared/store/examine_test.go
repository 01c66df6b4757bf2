package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rucflow/rucflow/shared/mend"
	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store"
)

func TestExamineDir_LeavesTheFolderAsItIs(t *testing.T) {
	dir := t.TempDir()
	own, file := filepath.Join(dir, "own"), filepath.Join(dir, "file")
	f, err := store.NewFile(own, 1<<20, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Claim(t.Context(), ruc.FuenteReplica); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		dir, source string
		existing    string // "" = it cannot be used
	}{
		"ours":             {own, ruc.FuenteReplica, own},
		"another source's": {own, ruc.FuenteSunat, ""},
		"to be made":       {filepath.Join(own, "a", "b"), ruc.FuenteReplica, own},
		"a file":           {file, ruc.FuenteReplica, ""},
		"below a file":     {filepath.Join(file, "a"), ruc.FuenteReplica, ""},
	} {
		t.Run(name, func(t *testing.T) {
			existing, err := store.ExamineDir("CACHE_DIR", tc.dir, tc.source)
			var known *mend.Error
			if existing != tc.existing || (err == nil) != (tc.existing != "") || err != nil && !errors.As(err, &known) {
				t.Errorf("%q, %v; want %q", existing, err, tc.existing)
			}
		})
	}
	if left, err := os.ReadDir(own); err != nil || len(left) != 1 { // the marker
		t.Errorf("the folder was changed: %v, %v", left, err)
	}
}
